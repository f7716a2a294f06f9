//! How a language asks: what its patterns are, and in which order they are tried.

use regex::{Captures, Regex, RegexBuilder};

use super::{
    arithmetic,
    request::{Intent, Language, Sentence, Topic},
};

/// The patterns of a language. `words`, `owner`, `name`, `value` and `sum` are their groups.
pub(super) struct Grammar {
    pub(super) language: Language,
    /// Courtesies before a request, and after it.
    pub(super) opening: Regex,
    pub(super) closing: Regex,
    pub(super) arithmetic: Regex,
    pub(super) time: Regex,
    pub(super) recall_all: Regex,
    pub(super) recall_person: Regex,
    pub(super) search: Vec<Regex>,
    pub(super) recall: Vec<Regex>,
    pub(super) remember_person: Regex,
    pub(super) remember: Vec<Regex>,
    pub(super) not_a_name: Regex,
    pub(super) not_a_value: Regex,
    /// The topic of a fact to remember or to recall, if it is one.
    pub(super) topic: fn(&Captures<'_>) -> Option<Topic>,
}

impl Grammar {
    /// What `sentence` asks for.
    pub(super) fn intent(&self, sentence: Sentence<'_>) -> Option<Intent> {
        let text = self.opening.replace(sentence.text, "");
        let text = self.closing.replace(&text, "");
        let sum = self.arithmetic.captures(&text);
        if let Some(expression) = sum.and_then(|sum| arithmetic::expression(&sum["sum"])) {
            return Some(Intent::Calculate { expression });
        }
        if self.time.is_match(&text) {
            return Some(Intent::TellTime);
        }
        if self.recall_all.is_match(&text) {
            return Some(Intent::RecallAll);
        }
        if self.recall_person.is_match(&text) {
            return Some(Intent::Recall(Topic::person()));
        }
        if let Some(search) = first(&self.search, &text) {
            let words = unquoted(&search["words"]).to_owned();
            return Some(Intent::Search { words });
        }
        if let Some(recall) = first(&self.recall, &text) {
            return (self.topic)(&recall).map(Intent::Recall);
        }
        if sentence.is_question {
            return None;
        }
        if let Some(person) = self.remember_person.captures(&text) {
            return self.fact(Topic::person(), &person["value"]);
        }
        let fact = first(&self.remember, &text)?;
        self.fact((self.topic)(&fact)?, &fact["value"])
    }

    fn fact(&self, topic: Topic, value: &str) -> Option<Intent> {
        let value = unquoted(value);
        let is_person = !topic.is_person() || !self.not_a_name.is_match(value);
        let is_value = !value.is_empty() && !self.not_a_value.is_match(value);
        (is_person && is_value).then(|| Intent::Remember {
            topic,
            value: value.to_owned(),
        })
    }
}

/// A pattern that ignores case.
pub(super) fn pattern(source: &str) -> Regex {
    RegexBuilder::new(source)
        .case_insensitive(true)
        .build()
        .expect("the pattern is valid")
}

/// Patterns that ignore case.
pub(super) fn patterns(sources: &[&str]) -> Vec<Regex> {
    sources.iter().map(|source| pattern(source)).collect()
}

fn first<'a>(patterns: &[Regex], text: &'a str) -> Option<Captures<'a>> {
    patterns.iter().find_map(|pattern| pattern.captures(text))
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '“', '”', '「', '」'])
}
