//! Taking what a message says out of all that was stored with it, so that the rest stays readable.

use rmpv::Value as Msgpack;
use serde_json::Value as Json;

use crate::{
    Message, Value,
    checkpoint::EncodeError,
    conversation::{Part, Source},
    validate::MAX_DEPTH,
};

/// What stands in place of what was said.
pub const REDACTED: &str = "[redacted]";

/// From so many bytes on a text is looked for within others: it has no other meaning anywhere.
const LONG: usize = 12;

/// Where a shorter text is what was said, if it is all that stands there.
const SAID: [&str; 8] = [
    "content",
    "text",
    "input",
    "output",
    "question",
    "answer",
    "result",
    "instructions",
];

/// The types of blocks that can't be read any more without what was in them.
const MEDIA: [&str; 7] = [
    "image",
    "file",
    "image_url",
    "audio",
    "video",
    "input_audio",
    "document",
];

/// The texts of a message, to be taken out of stored values.
#[derive(Clone, Debug)]
pub struct Redaction {
    texts: Vec<String>,
    /// In all the forms in which they stand in JSON.
    forms: Vec<String>,
}

impl Redaction {
    /// That of a message as it was said.
    pub fn of(message: &Message) -> Self {
        let mut texts = vec![message.content.clone()];
        for part in &message.parts {
            match part {
                Part::Text { text }
                | Part::Reasoning { text }
                | Part::ToolResult { content: text, .. } => texts.push(text.clone()),
                Part::Image { source } => texts.extend(bytes_of(source)),
                Part::File { name, source } => {
                    texts.extend(name.clone());
                    texts.extend(bytes_of(source));
                }
                Part::ToolCall { arguments, .. } => leaves(arguments, &mut texts),
            }
        }
        texts.retain(|text| !text.is_empty() && text != REDACTED);
        // One that has another in it goes first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        let mut forms: Vec<String> = Vec::new();
        for text in &texts {
            let escaped = escaped(text);
            for form in [text, &escaped, &ascii(&escaped)] {
                if !forms.contains(form) {
                    forms.push(form.clone());
                }
            }
        }
        Self { texts, forms }
    }

    /// The texts, one of which stands in each value that may change.
    pub fn forms(&self) -> &[String] {
        &self.forms
    }

    /// The value without them, where it has them; `key` is under what it stands. An error where they
    /// are in it in a way that can't be changed.
    pub fn value(&self, key: &str, value: &Value) -> Result<Option<Value>, EncodeError> {
        let bytes = match value.type_tag() {
            "msgpack" => {
                let mut read = value.bytes();
                let read = rmpv::decode::read_value_with_max_depth(&mut read, 2 * MAX_DEPTH);
                let mut read = read.map_err(EncodeError::new)?;
                self.msgpack(key, &mut read).then(|| encoded(&read))
            }
            "json" => {
                let read = serde_json::from_slice(value.bytes());
                let mut read = read.map_err(EncodeError::new)?;
                let changes = self.json(key, &mut read);
                changes.then(|| read.to_string().into_bytes())
            }
            _ => None,
        };
        let left = bytes.as_deref().unwrap_or(value.bytes());
        if self.has_long(left) {
            let tag = value.type_tag();
            let reason = format!("what was said stands in a value of the type {tag}");
            return Err(EncodeError::new(reason));
        }
        let tag = value.type_tag().to_owned();
        Ok(bytes.map(|bytes| Value::from_parts(tag, bytes)))
    }

    /// Takes them out of JSON that stands under `key`. Whether it has changed.
    pub fn json(&self, key: &str, json: &mut Json) -> bool {
        match json {
            Json::String(text) => match self.string(key, text) {
                Some(redacted) => {
                    *text = redacted;
                    true
                }
                None => false,
            },
            Json::Array(items) => {
                let changed = items.iter_mut().map(|item| self.json(key, item));
                changed.fold(false, |one, other| one | other)
            }
            Json::Object(fields) => {
                let changed = fields.iter_mut().map(|(key, value)| self.json(key, value));
                let changed = changed.fold(false, |one, other| one | other);
                let block = fields.get("type").and_then(Json::as_str);
                if changed && block.is_some_and(|block| MEDIA.contains(&block)) {
                    *json = serde_json::json!({"type": "text", "text": REDACTED});
                }
                changed
            }
            _ => false,
        }
    }

    /// A text without them, where it has them.
    pub fn text(&self, text: &str) -> Option<String> {
        self.string("", text)
    }

    fn string(&self, key: &str, text: &str) -> Option<String> {
        let is_all = self.texts.iter().any(|said| said == text);
        if is_all && (text.len() >= LONG || SAID.contains(&key)) {
            return Some(REDACTED.to_owned());
        }
        let mut left = text.to_owned();
        for form in self.long() {
            if left.contains(form.as_str()) {
                left = left.replace(form.as_str(), REDACTED);
            }
        }
        (left != text).then_some(left)
    }

    fn msgpack(&self, key: &str, value: &mut Msgpack) -> bool {
        match value {
            Msgpack::String(text) => {
                let redacted = text.as_str().and_then(|text| self.string(key, text));
                let changes = redacted.is_some();
                if let Some(redacted) = redacted {
                    *text = redacted.into();
                }
                changes
            }
            Msgpack::Array(items) => {
                let changed = items.iter_mut().map(|item| self.msgpack(key, item));
                changed.fold(false, |one, other| one | other)
            }
            Msgpack::Map(entries) => {
                let changed = entries.iter_mut().map(|(key, value)| {
                    let key = key.as_str().unwrap_or_default();
                    self.msgpack(key, value)
                });
                let changed = changed.fold(false, |one, other| one | other);
                let is_media = |(key, value): &(Msgpack, Msgpack)| {
                    let block = value.as_str();
                    key.as_str() == Some("type") && block.is_some_and(|b| MEDIA.contains(&b))
                };
                if changed && entries.iter().any(is_media) {
                    *entries = vec![
                        ("type".into(), "text".into()),
                        ("text".into(), REDACTED.into()),
                    ];
                }
                changed
            }
            Msgpack::Ext(code, bytes) => self.extension(key, *code, bytes),
            _ => false,
        }
    }

    /// An object of Python: of all but arrays of numbers MessagePack again, that of a class with its
    /// module and its name first.
    fn extension(&self, key: &str, code: i8, bytes: &mut Vec<u8>) -> bool {
        let mut read = bytes.as_slice();
        let read = rmpv::decode::read_value_with_max_depth(&mut read, 2 * MAX_DEPTH);
        let Ok(mut payload) = read else {
            return false;
        };
        let changed = match (code, &mut payload) {
            (0..=5, Msgpack::Array(parts)) => {
                let arguments = parts.iter_mut().skip(2);
                let changed = arguments.map(|part| self.msgpack(key, part));
                changed.fold(false, |one, other| one | other)
            }
            (7, payload) => self.msgpack(key, payload),
            _ => false,
        };
        if changed {
            *bytes = encoded(&payload);
        }
        changed
    }

    fn long(&self) -> impl Iterator<Item = &String> {
        self.forms.iter().filter(|form| form.len() >= LONG)
    }

    fn has_long(&self, bytes: &[u8]) -> bool {
        let mut long = self.long();
        long.any(|form| memchr::memmem::find(bytes, form.as_bytes()).is_some())
    }
}

impl Message {
    /// Makes it say nothing, and keeps what others refer to: its place, and the ids of calls.
    pub fn redact(&mut self) {
        let redacted = || REDACTED.to_owned();
        if !self.content.is_empty() {
            self.content = redacted();
        }
        self.metadata = None;
        self.parts
            .retain(|part| !matches!(part, Part::Reasoning { .. }));
        for part in &mut self.parts {
            match part {
                Part::ToolCall { arguments, .. } => *arguments = serde_json::json!({}),
                Part::ToolResult { content, .. } => *content = redacted(),
                _ => *part = Part::text(REDACTED),
            }
        }
    }
}

fn bytes_of(source: &Source) -> Option<String> {
    Some(match source {
        Source::Url { url, .. } => url.clone(),
        Source::Data { data, .. } => data.clone(),
        Source::Provider { file, .. } => file.clone(),
    })
}

fn leaves(json: &Json, texts: &mut Vec<String>) {
    match json {
        Json::String(text) => texts.push(text.clone()),
        Json::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
        Json::Object(fields) => fields.values().for_each(|value| leaves(value, texts)),
        _ => {}
    }
}

/// As it stands in JSON, without the quotation marks.
fn escaped(text: &str) -> String {
    let quoted = Json::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The same, as Python writes it.
fn ascii(escaped: &str) -> String {
    let mut ascii = String::with_capacity(escaped.len());
    for character in escaped.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                ascii += &format!("\\u{unit:04x}");
            }
        }
    }
    ascii
}

fn encoded(value: &Msgpack) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory takes all");
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ConversationId, Role};

    fn of(text: &str) -> Redaction {
        Redaction::of(&Message::new(ConversationId::new(), Role::User, text))
    }

    #[test]
    fn a_short_text_goes_where_it_was_said_and_nowhere_else() {
        let mut state = json!([
            {"role": "user", "content": "user"},
            {"role": "assistant", "content": "the user said user"},
        ]);
        assert!(of("user").json("messages", &mut state));
        assert_eq!(
            state,
            json!([
                {"role": "user", "content": REDACTED},
                {"role": "assistant", "content": "the user said user"},
            ])
        );
    }

    #[test]
    fn a_long_text_goes_wherever_it_stands() {
        let said = "My \"PIN\" is 漢字 4711";
        let nested = json!({"q": said}).to_string();
        let mut state = json!({"a": ["so ", said], "b": format!("> {said}\n"), "c": nested});
        assert!(of(said).json("", &mut state));
        assert_eq!(
            state,
            json!({"a": ["so ", REDACTED], "b": "> [redacted]\n", "c": "{\"q\":\"[redacted]\"}"})
        );
        let python = "{\"q\": \"My \\\"PIN\\\" is \\u6f22\\u5b57 4711\"}";
        let redacted = of(said).text(python);
        assert_eq!(redacted.as_deref(), Some("{\"q\": \"[redacted]\"}"));
    }

    #[test]
    fn messages_of_langchain_stay_what_they_are() {
        let message = |content: &str| {
            let fields = Msgpack::Map(vec![
                ("content".into(), content.into()),
                ("type".into(), "human".into()),
            ]);
            let class = ["langchain_core.messages.human", "HumanMessage"];
            let [module, class] = class.map(Msgpack::from);
            let payload = Msgpack::Array(vec![module, class, fields, "model_validate".into()]);
            Msgpack::Array(vec![Msgpack::Ext(5, encoded(&payload))])
        };
        let value = |content| Value::from_parts("msgpack", encoded(&message(content)));
        for said in ["yes", "langchain_core", "a longer text of somebody"] {
            let redacted = of(said).value("messages", &value(said));
            assert!(
                redacted.is_err() == (said == "langchain_core"),
                "{redacted:?}"
            );
            if let Ok(redacted) = redacted {
                assert_eq!(redacted, Some(value(REDACTED)), "{said}");
            }
        }
    }

    #[test]
    fn a_picture_becomes_text() {
        let picture = Part::Image {
            source: Source::Data {
                data: "aGVsbG8gd29ybGQ=".to_owned(),
                media_type: "image/png".to_owned(),
            },
        };
        let message = Message::of_parts(ConversationId::new(), Role::User, vec![picture]);
        let mut stored = json!({"role": "user", "content": "", "parts": message.parts});
        assert!(Redaction::of(&message).json("", &mut stored));
        let parts = json!([{"type": "text", "text": REDACTED}]);
        assert_eq!(stored["parts"], parts);
        let mut redacted = message;
        redacted.redact();
        assert_eq!(json!(redacted.parts), parts);
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        let pickled = Value::from_parts("pickle", b"\x80\x04 a secret of somebody".to_vec());
        let redaction = of("a secret of somebody");
        assert!(redaction.value("", &pickled).is_err());
        let other = Value::from_parts("pickle", b"\x80\x04 nothing".to_vec());
        assert_eq!(redaction.value("", &other).unwrap(), None);
    }
}
