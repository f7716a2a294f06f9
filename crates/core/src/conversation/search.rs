//! Finding conversations by what was said in them, and by what they are called and marked with.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use async_trait::async_trait;
use serde_json::Value as Json;

use crate::{
    ConversationId, Error, MessageId, Result,
    storage::{Cursor, Page},
    validate,
};

/// How many bytes of a message are looked at.
pub const MAX_TEXT: usize = 64 << 10;

/// How many words are searched for at once.
const MAX_TERMS: usize = 32;

/// How much of a word counts, in characters.
const MAX_WORD: usize = 64;

/// Finds conversations, each at one place: there the newest comes first, and there a page ends, so
/// that a page costs the same at any depth.
///
/// What was said is found once it was taken into the [`index`](Self::index), behind what writes it, on
/// whatever branch it is: who changes a message, or the owner of a conversation, finds what was there
/// when it was taken in. [`Wanted::Fields`] are found as they are now; the index makes that fast.
#[async_trait]
pub trait ConversationSearch: Send + Sync {
    /// Takes in what was stored since, and returns about how much: at most `limit`, and 0
    /// where there is no more, or somebody else is at it.
    async fn index(&self, limit: u64) -> Result<u64>;

    /// The conversations that are wanted. Such a one stands where the newest of its messages does that
    /// has all words of a text; by its title and its metadata it stands where it does in the list of all:
    /// where the last message of a person does, or, where there is none, where it was made.
    async fn find(&self, query: &SearchQuery) -> Result<Page<Hit, HitCursor>>;
}

/// Where a page of hits ends.
pub type HitCursor = Cursor<MessageId>;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SearchQuery {
    /// By what.
    pub wanted: Wanted,
    /// Only in the conversations of this owner.
    pub owner: Option<String>,
    /// Behind the place where the page before has ended.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: u64,
}

/// What a conversation that is searched for has.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A message with all these words, as [`terms`] makes them, or a title with all of them.
    Text(BTreeSet<String>),
    /// These fields.
    Fields(Fields),
}

/// What a conversation is called and marked with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// Words of its title, as [`terms`] makes them.
    pub title: BTreeSet<String>,
    /// Fields of its metadata: text, numbers, booleans or null. Another value is in none.
    pub metadata: BTreeMap<String, Json>,
}

impl Fields {
    /// Whether a conversation with this title and these metadata has all of them.
    pub fn are_of(&self, title: Option<&str>, metadata: Option<&Json>) -> bool {
        let has_field = |(field, wanted): (&String, &Json)| {
            let value = metadata.and_then(|metadata| metadata.get(field));
            scalar(wanted).is_some_and(|wanted| value.and_then(scalar) == Some(wanted))
        };
        let has_title = || self.title.is_subset(&terms(title.unwrap_or_default()));
        self.metadata.iter().all(has_field) && (self.title.is_empty() || has_title())
    }
}

/// The JSON of a value that has no parts, the same for the same number.
pub fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::Array(_) | Json::Object(_) => None,
        Json::Number(number) if !number.is_i64() && !number.is_u64() => {
            let number = number.as_f64()?;
            Some(number.to_string())
        }
        scalar => Some(scalar.to_string()),
    }
}

impl SearchQuery {
    /// The conversations with all words of `text` in a message or in their title, the first hundred. A
    /// text without words is refused, and one with too many.
    pub fn text(text: &str) -> Result<Self> {
        Ok(Self::new(Wanted::Text(words("text", text)?)))
    }

    /// The conversations with all words of `title` in theirs, where it is given, and all these fields in
    /// their metadata, the first hundred.
    pub fn fields(title: Option<&str>, metadata: BTreeMap<String, Json>) -> Result<Self> {
        let title = title.map(|title| words("title", title)).transpose()?;
        Ok(Self::new(Wanted::Fields(Fields {
            title: title.unwrap_or_default(),
            metadata,
        })))
    }

    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            owner: None,
            before: None,
            limit: 100,
        }
    }

    /// Only in the conversations of `owner`, where there is one.
    #[must_use]
    pub fn owned_by(self, owner: Option<String>) -> Self {
        Self { owner, ..self }
    }

    /// At most so many.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Goes on behind a page.
    pub fn after(self, cursor: &HitCursor) -> Result<Self> {
        match cursor {
            Cursor::Position(position) => Ok(Self {
                before: Some(*position),
                ..self
            }),
            Cursor::Id(_) => Err(Error::invalid("cursor", "must be of a page of this search")),
        }
    }
}

fn words(field: &'static str, text: &str) -> Result<BTreeSet<String>> {
    validate::text(field, text)?;
    let terms = terms(text);
    if terms.is_empty() || terms.len() > MAX_TERMS {
        let reason = format!("must have 1 to {MAX_TERMS} words, or pairs of Chinese characters");
        return Err(Error::invalid(field, reason));
    }
    Ok(terms)
}

/// A conversation that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which.
    pub conversation_id: ConversationId,
    /// Its newest message that has all words; `None` where its title or its metadata were found.
    pub message_id: Option<MessageId>,
}

/// What a text is found by: its words in lower case, and of scripts that put no space between words
/// each pair of neighbours. Of a long text its first [`MAX_TEXT`] bytes.
///
/// ```
/// use yai_agentkit_core::conversation::terms;
/// let terms = terms("Trip to 北京旅行, TRIP!");
/// assert_eq!(terms.into_iter().collect::<Vec<_>>(), ["to", "trip", "京旅", "北京", "旅行"]);
/// ```
pub fn terms(text: &str) -> BTreeSet<String> {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let mut terms = BTreeSet::new();
    let mut word = String::new();
    let mut neighbour: Option<(char, bool)> = None;
    for character in text
        .chars()
        .flat_map(char::to_lowercase)
        .chain(iter::once(' '))
    {
        let is_joined = is_unspaced(character);
        if let Some((before, is_paired)) = neighbour.take() {
            if is_joined {
                terms.insert(String::from_iter([before, character]));
            } else if !is_paired {
                terms.insert(before.to_string());
            }
            neighbour = is_joined.then_some((character, true));
        } else if is_joined {
            neighbour = Some((character, false));
        }
        if !is_joined && (character.is_alphanumeric() || is_mark(character)) {
            word.push(character);
        } else if !word.is_empty() {
            terms.insert(word.chars().take(MAX_WORD).collect());
            word.clear();
        }
    }
    terms
}

/// Whether the script of a letter puts no space between words: Chinese, Japanese, Korean (where a
/// word takes endings), Thai, Lao, Khmer and Burmese.
fn is_unspaced(letter: char) -> bool {
    matches!(letter,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}')
}

/// Accents that stand for themselves.
fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        terms(text).into_iter().collect()
    }

    #[test]
    fn a_text_is_found_by_its_words_and_by_pairs_where_there_are_no_spaces() {
        assert_eq!(list("Don't-stop_now"), ["don", "now", "stop", "t"]);
        assert_eq!(list("用GPT画图"), ["gpt", "用", "画图"]);
        assert_eq!(list("ÀÉ Ünïcode"), ["àé", "ünïcode"]);
        assert_eq!(list("。!? \u{1f980}"), Vec::<String>::new());
        assert_eq!(list(&"w".repeat(1000)), ["w".repeat(MAX_WORD)]);
        assert!(terms(&"漢".repeat(1 << 20)).len() == 1);
    }

    #[test]
    fn a_search_without_words_is_refused_and_one_with_too_many() {
        assert!(SearchQuery::text("?!").is_err());
        let many: Vec<String> = (0..33).map(|word| word.to_string()).collect();
        assert!(SearchQuery::text(&many.join(" ")).is_err());
        assert!(SearchQuery::text(&many[1..].join(" ")).is_ok());
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let scalars = ["7", "7.0", "70e-1", "\"7\"", "7.5", "null", "[]"];
        let scalars = scalars.map(|json| scalar(&serde_json::from_str(json).unwrap()));
        let expected = ["7", "7", "7", "\"7\"", "7.5", "null"];
        assert_eq!(scalars[..6], expected.map(|text| Some(text.to_owned())));
        assert_eq!(scalars[6], None);
    }
}
