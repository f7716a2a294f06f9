//! Finding conversations by what was said in them.

use std::{collections::BTreeSet, iter};

use async_trait::async_trait;

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

/// Finds conversations by the texts of their messages, whatever branch these are on.
///
/// A message is found once it was taken into the [`index`](Self::index), behind what writes it. Who
/// changes a message, or the owner of a conversation, finds what was there when it was taken in.
#[async_trait]
pub trait MessageSearch: Send + Sync {
    /// Takes in messages that were stored since, and returns about how many: at most `limit`, and 0
    /// where there are no more, or somebody else is at it.
    async fn index(&self, limit: u64) -> Result<u64>;

    /// The conversations with a message that has all words, each with the newest such message, and
    /// the newest of these first.
    async fn find(&self, query: &TextQuery) -> Result<Page<Hit, HitCursor>>;
}

/// Where a page of hits ends: its cost does not depend on how far that is.
pub type HitCursor = Cursor<MessageId>;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TextQuery {
    /// The words, as [`terms`] makes them.
    pub terms: BTreeSet<String>,
    /// Only in the conversations of this owner.
    pub owner: Option<String>,
    /// Behind the place where the page before has ended.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: u64,
}

impl TextQuery {
    /// The conversations with all words of `text`, the first hundred. One without words is refused,
    /// and one with too many.
    pub fn new(text: &str) -> Result<Self> {
        validate::text("text", text)?;
        let terms = terms(text);
        if terms.is_empty() || terms.len() > MAX_TERMS {
            let reason =
                format!("must have 1 to {MAX_TERMS} words, or pairs of Chinese characters");
            return Err(Error::invalid("text", reason));
        }
        Ok(Self {
            terms,
            owner: None,
            before: None,
            limit: 100,
        })
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

/// A conversation that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which.
    pub conversation_id: ConversationId,
    /// Its newest message that has all words.
    pub message_id: MessageId,
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
        assert!(TextQuery::new("?!").is_err());
        let many: Vec<String> = (0..33).map(|word| word.to_string()).collect();
        assert!(TextQuery::new(&many.join(" ")).is_err());
        assert!(TextQuery::new(&many[1..].join(" ")).is_ok());
    }
}
