//! What a person asks for, found in the text of a message.

use std::sync::LazyLock;

use regex::Regex;

use super::{
    chinese::CHINESE,
    english::ENGLISH,
    grammar::{Grammar, pattern},
};

/// So many sentences are read, and a longer one is no request: both bound the work.
const MAX_SENTENCES: usize = 50;
const MAX_SENTENCE: usize = 500;
const MAX_REQUESTS: usize = 8;
const TITLES: [&str; 6] = ["Mr", "Mrs", "Ms", "Dr", "St", "Prof"];

/// Something to do with one tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// In which it was asked, and is to be answered.
    pub(super) language: Language,
    pub(super) intent: Intent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Language {
    English,
    Chinese,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Intent {
    Remember { topic: Topic, value: String },
    Recall(Topic),
    RecallAll,
    Calculate { expression: String },
    TellTime,
    Search { words: String },
}

/// What a fact is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Topic {
    pub(super) name: String,
    /// It is the person's own ("my name"), not the world's ("the password").
    pub(super) own: bool,
    pub(super) plural: bool,
}

impl Topic {
    /// The name of the person, which both languages share.
    pub(super) const PERSON: &str = "name";

    pub(super) fn person() -> Self {
        Self::own(Self::PERSON)
    }

    pub(super) fn own(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            own: true,
            plural: false,
        }
    }

    pub(super) fn is_person(&self) -> bool {
        self.own && self.name.eq_ignore_ascii_case(Self::PERSON)
    }
}

/// One sentence, or the part of one that may be a request of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sentence<'a> {
    pub(super) text: &'a str,
    /// It ends in a question mark, so it tells no fact.
    pub(super) is_question: bool,
}

impl Language {
    /// The likelier one for `text`.
    pub(super) fn of(text: &str) -> Self {
        let is_han = |c: char| ('\u{3400}'..='\u{9fff}').contains(&c);
        if text.chars().any(is_han) {
            Self::Chinese
        } else {
            Self::English
        }
    }
}

/// The requests in `text`, in its order; none when nothing is understood.
pub(super) fn requests(text: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    for sentence in sentences(text).into_iter().take(MAX_SENTENCES) {
        if sentence.text.chars().count() <= MAX_SENTENCE {
            add_requests(sentence, &mut requests);
        }
    }
    requests.truncate(MAX_REQUESTS);
    requests
}

/// Clauses that stand on their own come first, else "my name is Ada and my dog is Rex" would be
/// one long name.
fn add_requests(sentence: Sentence<'_>, requests: &mut Vec<Request>) {
    let separators: Vec<_> = CLAUSE_SEPARATOR.find_iter(sentence.text).collect();
    for separator in separators.into_iter().rev() {
        let head = &sentence.text[..separator.start()];
        let tail = &sentence.text[separator.end()..];
        // "1,000" is one number.
        let is_digit = |c: char| c.is_ascii_digit();
        if head.ends_with(is_digit) && tail.starts_with(is_digit) {
            continue;
        }
        let tail = Sentence {
            text: tail.trim(),
            ..sentence
        };
        let last = request(tail);
        let is_other_question = sentence.is_question && QUESTION.is_match(tail.text);
        if last.is_some() || is_other_question {
            let head = Sentence {
                text: head.trim(),
                is_question: false,
            };
            add_requests(head, requests);
            requests.extend(last);
            return;
        }
    }
    requests.extend(request(sentence));
}

static CLAUSE_SEPARATOR: LazyLock<Regex> = LazyLock::new(|| pattern(",|，| and "));

/// How a question of its own begins, unlike ", right?".
static QUESTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:and\s+)?(?:(?:what|who|where|when|how|why|can|could|do|are)\b|[你您])")
});

fn request(sentence: Sentence<'_>) -> Option<Request> {
    let grammars: [&Grammar; 2] = match Language::of(sentence.text) {
        Language::English => [&ENGLISH, &CHINESE],
        Language::Chinese => [&CHINESE, &ENGLISH],
    };
    grammars.into_iter().find_map(|grammar| {
        let intent = grammar.intent(sentence)?;
        Some(Request {
            language: grammar.language,
            intent,
        })
    })
}

fn sentences(text: &str) -> Vec<Sentence<'_>> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, mark) in text.char_indices() {
        let next = at + mark.len_utf8();
        let is_before_space = || text[next..].chars().next().is_none_or(char::is_whitespace);
        let ends = match mark {
            '。' | '？' | '！' | '；' | '?' | ';' | '\n' => true,
            '!' => is_before_space(),
            '.' => {
                is_before_space() && !TITLES.iter().any(|title| text[start..at].ends_with(title))
            }
            _ => false,
        };
        if ends || next == text.len() {
            let end = if ends { at } else { next };
            sentences.push(Sentence {
                // "Ada!!!"
                text: text[start..end].trim().trim_end_matches(['.', '!']),
                is_question: matches!(mark, '?' | '？'),
            });
            start = next;
        }
    }
    sentences.retain(|sentence| !sentence.text.is_empty());
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intents(text: &str) -> Vec<Intent> {
        requests(text)
            .into_iter()
            .map(|request| request.intent)
            .collect()
    }

    fn fact(name: &str, value: &str) -> Intent {
        Intent::Remember {
            topic: Topic::own(name),
            value: value.to_owned(),
        }
    }

    fn sum(expression: &str) -> Intent {
        Intent::Calculate {
            expression: expression.to_owned(),
        }
    }

    #[test]
    fn clauses_and_sentences_are_requests_of_their_own() {
        assert_eq!(
            intents("Hi! My name is Ada and my dog is Rex, what is 1,000 + 2.5? Thanks."),
            [fact("name", "Ada"), fact("dog", "Rex"), sum("1,000 + 2.5")]
        );
        assert_eq!(
            intents("我叫小明，17 乘以 23 是多少？"),
            [fact("name", "小明"), sum("17 * 23")]
        );
    }

    #[test]
    fn a_question_after_a_fact_does_not_hide_it() {
        assert_eq!(
            intents("My name is Ada, what is yours?"),
            [fact("name", "Ada")]
        );
        assert_eq!(intents("我叫小明，你叫什么？"), [fact("name", "小明")]);
        assert_eq!(intents("My name is Ada, right?"), []);
    }

    #[test]
    fn names_keep_their_titles_and_scripts() {
        assert_eq!(
            intents("My name is Dr. Jane O’Hara."),
            [fact("name", "Dr. Jane O’Hara")]
        );
        assert_eq!(intents("My name is 小明."), [fact("name", "小明")]);
        assert_eq!(intents("我叫 Ada。"), [fact("name", "Ada")]);
        assert_eq!(intents("My name is Bob!!!"), [fact("name", "Bob")]);
        assert_eq!(intents("my name is Zoë 🎉"), [fact("name", "Zoë 🎉")]);
    }

    #[test]
    fn what_tells_no_fact_is_not_understood() {
        for text in [
            "",
            "   \n",
            "?!?。，,",
            "Hello",
            "I think my code is broken",
            "My name is not Ada.",
            "My name is what?",
            "My dog is ill?",
            "My name is",
            "What is 42?",
            "Remember to buy milk.",
            "我觉得他是对的",
            "我不是学生",
            "我的名字不是小明",
            "我的代码是不是坏了",
            "我的猫是黑色的吗",
            "我叫了外卖",
            "这是什么？",
            "你好",
        ] {
            assert_eq!(intents(text), [], "{text}");
        }
    }

    #[test]
    fn any_length_is_read_in_bounded_work() {
        assert_eq!(
            intents(&"My name is Ada. ".repeat(100_000)).len(),
            MAX_REQUESTS
        );
        assert_eq!(intents(&"，1 and 1, ".repeat(100_000)), []);
        assert_eq!(intents(&format!("My name is {}", "é".repeat(100_000))), []);
    }
}
