//! Text that comes in pieces, as endpoints cut it.

use std::{fmt, mem};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::value::RawValue;

/// How deep parts may hold parts.
const MAX_DEPTH: usize = 4;

/// Some endpoints cut between the two halves of a character beyond U+FFFF, so that neither piece
/// is text by itself.
#[derive(Default)]
pub(super) struct Pieces {
    text: String,
    /// The first half of a character whose second is still to come.
    half: Option<u16>,
}

impl Pieces {
    /// Adds what a field holds: a string, or parts of which some are text. Returns what it adds.
    pub(super) fn add(&mut self, field: &RawValue) -> serde_json::Result<&str> {
        let before = self.text.len();
        self.add_part(field.get(), MAX_DEPTH)?;
        Ok(&self.text[before..])
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole. A half without its other is what Unicode replaces it by.
    pub(super) fn into_text(mut self) -> String {
        if self.half.take().is_some() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text
    }

    fn add_part(&mut self, json: &str, depth: usize) -> serde_json::Result<()> {
        match json.as_bytes().first() {
            Some(b'"') => self.add_units(&serde_json::from_str::<Units>(json)?.0),
            Some(b'[') if depth > 0 => {
                for part in serde_json::from_str::<Vec<&RawValue>>(json)? {
                    self.add_part(part.get(), depth - 1)?;
                }
            }
            Some(b'{') if depth > 0 => {
                let part: Part = serde_json::from_str(json)?;
                if let Some(text) = part.text.or(part.value) {
                    self.add_part(text.get(), depth - 1)?;
                }
            }
            Some(b'n') => {}
            _ => return Err(serde_json::Error::custom("neither text nor parts")),
        }
        Ok(())
    }

    fn add_units(&mut self, units: &[u16]) {
        let joined: Vec<u16> = self
            .half
            .take()
            .into_iter()
            .chain(units.iter().copied())
            .collect();
        let whole = match joined.split_last() {
            Some((last, whole)) if (0xD800..0xDC00).contains(last) => {
                self.half = Some(*last);
                whole
            }
            _ => &joined[..],
        };
        self.text.push_str(&String::from_utf16_lossy(whole));
    }
}

/// A part of a content: its text, by itself or as a value with annotations. Images and thoughts
/// have none.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// A JSON string as UTF-16, since JSON can hold a half of a character and `str` can't.
struct Units(Vec<u16>);

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Units;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Units, E> {
                Ok(Units(units(bytes)))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// `serde_json` gives a lone half as the three bytes that UTF-8 would have for it.
fn units(bytes: &[u8]) -> Vec<u16> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let half = rest
            .windows(3)
            .position(|bytes| bytes[0] == 0xED && bytes[1] >= 0xA0)
            .unwrap_or(rest.len());
        units.extend(String::from_utf8_lossy(&rest[..half]).encode_utf16());
        rest = &rest[half..];
        if let [_, second, third, after @ ..] = rest {
            units.push(0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F));
            rest = after;
        }
    }
    units
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Keeps what a model thinks aloud, between `<think>` and `</think>`, out of what it says.
#[derive(Default)]
pub(super) struct Speech {
    place: Place,
    /// What may be the beginning of a tag.
    held: String,
    said: String,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    /// Nothing but white space has come.
    #[default]
    Start,
    Thoughts,
    Words,
}

impl Speech {
    /// Takes the next piece, and returns what of it is said.
    pub(super) fn hear(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let mut new = String::new();
        loop {
            match self.place {
                Place::Start => {
                    let begun = self.held.trim_start();
                    if let Some(thoughts) = begun.strip_prefix(OPEN) {
                        self.held = thoughts.to_owned();
                        self.place = Place::Thoughts;
                    } else if OPEN.starts_with(begun) {
                        break;
                    } else {
                        self.place = Place::Words;
                    }
                }
                Place::Thoughts => {
                    let Some((_, words)) = self.held.split_once(CLOSE) else {
                        // All but what may be the beginning of its end.
                        let keep = self.held.len().saturating_sub(CLOSE.len() - 1);
                        let keep = (keep..=self.held.len())
                            .find(|at| self.held.is_char_boundary(*at))
                            .unwrap_or_default();
                        self.held.drain(..keep);
                        break;
                    };
                    self.held = words.trim_start().to_owned();
                    self.place = Place::Start;
                    if !self.held.is_empty() {
                        self.place = Place::Words;
                    }
                }
                Place::Words => {
                    new.push_str(&mem::take(&mut self.held));
                    break;
                }
            }
        }
        self.said.push_str(&new);
        new
    }

    /// What was said in the end. Where a model's template opens the thoughts by itself, only their
    /// end shows.
    pub(super) fn finish(mut self) -> String {
        if self.place == Place::Start {
            self.said.push_str(&self.held);
        }
        match self.said.split_once(CLOSE) {
            Some((thoughts, words)) if !thoughts.contains(OPEN) => words.trim_start().to_owned(),
            _ => self.said,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &[&str]) -> String {
        let mut text = Pieces::default();
        for piece in pieces {
            let piece = RawValue::from_string((*piece).to_owned()).expect("JSON");
            text.add(&piece).expect("text");
        }
        text.into_text()
    }

    #[test]
    fn a_character_may_come_in_two_halves() {
        assert_eq!(joined(&[r#""a \ud83d""#, r#""\ude00 b""#]), "a 😀 b");
        assert_eq!(joined(&[r#""\ud83d""#, "\"\"", r#""\ude00""#]), "😀");
        assert_eq!(joined(&[r#""\ud83d""#, r#""x""#]), "\u{FFFD}x");
        assert_eq!(
            joined(&[r#""é\ude00世""#, r#""\ud83d""#]),
            "é\u{FFFD}世\u{FFFD}"
        );
    }

    #[test]
    fn the_text_of_parts_is_the_text() {
        let parts = r#"[{"type":"thinking","thinking":[{"text":"hm"}]},{"type":"text","text":"Hello"},", ",
            {"type":"text","text":{"value":"Ada","annotations":[]}},{"type":"image_url","image_url":{}},null]"#;
        assert_eq!(joined(&[parts]), "Hello, Ada");
    }

    #[test]
    fn parts_in_parts_without_end_are_refused() {
        let deep = RawValue::from_string("[".repeat(100_000) + &"]".repeat(100_000)).expect("JSON");
        assert!(Pieces::default().add(&deep).is_err());
    }

    fn heard(pieces: &[&str]) -> (String, String) {
        let mut speech = Speech::default();
        let heard = pieces.iter().map(|piece| speech.hear(piece)).collect();
        (heard, speech.finish())
    }

    #[test]
    fn thoughts_are_not_said_however_they_are_cut() {
        let whole = "\n<think>Is it 4? 世界</think>\n\nIt is 4.";
        for size in 1..whole.chars().count() {
            let characters: Vec<char> = whole.chars().collect();
            let pieces: Vec<String> = characters
                .chunks(size)
                .map(|c| c.iter().collect())
                .collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (heard, said) = heard(&pieces);
            assert_eq!(
                (heard.trim_start(), said.trim_start()),
                ("It is 4.", "It is 4."),
                "{size}"
            );
        }
    }

    #[test]
    fn thoughts_that_were_opened_by_the_template_are_not_in_the_answer() {
        assert_eq!(heard(&["Is it", " 4?</think>It is 4."]).1, "It is 4.");
    }

    #[test]
    fn a_tag_in_the_middle_of_an_answer_is_part_of_it() {
        let answer = "Write <think>…</think> around it.";
        assert_eq!(heard(&[answer]), (answer.to_owned(), answer.to_owned()));
        assert_eq!(heard(&["<th"]).1, "<th");
    }
}
