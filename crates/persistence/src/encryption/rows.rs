//! What is encrypted of what is stored, and the place to which each value is bound.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json, json, value::RawValue};
use uuid::Uuid;
use yai_agentkit_core::{
    CheckpointKey, Conversation, Error, Message, NewWrites, Result, Turn, Value,
    checkpoint::{PendingWrite, special_write_index},
    conversation::Part,
    store::{Answer, Item, ItemKey, NewItem},
    turn::{EventBatch, TurnOwner, TurnRecord},
};

use super::{
    EncryptionError, Readable,
    cipher::{KeyRing, TEXT, TYPE},
};
use crate::checkpointer::NewRawCheckpoint;

/// Tables of LangGraph, and ours.
pub(crate) const BLOBS: &str = "checkpoint_blobs";
pub(crate) const WRITES: &str = "checkpoint_writes";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const EVENTS: &str = "agent_turn_events";
pub(crate) const RECORDS: &str = "agent_turn_records";
pub(crate) const STORE: &str = "store";
const CONVERSATIONS: &str = "agent_conversations";
const MESSAGES: &str = "agent_messages";
const TURNS: &str = "agent_turns";

type Opened<T = ()> = Result<T, EncryptionError>;

/// An id as a part of a place.
pub(crate) fn part(id: Uuid) -> String {
    id.simple().to_string()
}

/// The error of what can't be decrypted.
pub(crate) fn unreadable(
    what: impl Into<std::borrow::Cow<'static, str>>,
    error: EncryptionError,
) -> Error {
    Error::unreadable(what, error)
}

/// Values, of any type: their type stays readable, and is bound with them.
impl KeyRing {
    pub(crate) fn seal_value(&self, place: &[&str], value: &Value) -> Value {
        let place = [place, &[value.type_tag()]].concat();
        let sealed = self.seal(&place, value.bytes());
        Value::from_parts(format!("{}{TYPE}", value.type_tag()), sealed)
    }

    pub(crate) fn open_value(&self, place: &[&str], value: Value) -> Opened<Value> {
        let Some(tag) = value.type_tag().strip_suffix(TYPE) else {
            return self.plain(value);
        };
        let plain = self.open(&[place, &[tag]].concat(), value.bytes())?;
        Ok(match tag {
            "msgpack" => Value::from_parts("msgpack", plain),
            _ => Value::from_parts(tag.to_owned(), plain),
        })
    }

    /// JSON, as a text of JSON.
    pub(crate) fn seal_json(&self, place: &[&str], json: &Json) -> Json {
        Json::String(self.seal_text(place, &json.to_string()))
    }

    pub(crate) fn open_json(&self, place: &[&str], json: Json) -> Opened<Json> {
        match json {
            Json::String(text) if text.starts_with(TEXT) => {
                let plain = self.open_text(place, &text)?;
                serde_json::from_str(&plain).map_err(|_| EncryptionError::Refused)
            }
            json => self.plain(json),
        }
    }
}

/// Checkpoints, with their values and writes.
impl KeyRing {
    pub(crate) fn seal_checkpoint(&self, new: &mut NewRawCheckpoint) -> Result<()> {
        let invalid = |error: serde_json::Error| Error::invalid("checkpoint", error.to_string());
        new.checkpoint = self
            .seal_inline(&new.key, &new.checkpoint)
            .map_err(invalid)?;
        let graph = (new.key.thread_id.as_str(), new.key.namespace.as_str());
        for stored in &mut new.values {
            // Which nobody reads.
            if stored.value.type_tag() == "empty" {
                stored.value = Value::from_parts("empty", Vec::new());
                continue;
            }
            let place = of_value(graph, &stored.channel, &stored.version);
            stored.value = self.seal_value(&place, &stored.value);
        }
        Ok(())
    }

    /// The values that stand in the checkpoint itself are one text, and no object any more, so that who
    /// has no key fails. The names of their channels follow.
    pub(crate) fn seal_inline(
        &self,
        key: &CheckpointKey,
        checkpoint: &str,
    ) -> serde_json::Result<String> {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(checkpoint)?;
        let inline = fields.get("channel_values").map(|inline| inline.get());
        let inline = inline.filter(|inline| *inline != "null").unwrap_or("{}");
        let names: BTreeMap<String, IgnoredAny> = serde_json::from_str(inline)?;
        let sealed = self.seal_text(&of_checkpoint(key), inline);
        let array: Vec<String> = [sealed].into_iter().chain(names.into_keys()).collect();
        let array = RawValue::from_string(serde_json::to_string(&array)?)?;
        fields.insert("channel_values".to_owned(), array);
        serde_json::to_string(&fields)
    }

    pub(crate) fn open_inline(&self, key: &CheckpointKey, checkpoint: &str) -> Opened<String> {
        let damaged = |_| EncryptionError::Refused;
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(checkpoint).map_err(damaged)?;
        // Of who asks for none.
        let Some(inline) = fields.get_mut("channel_values") else {
            return Ok(checkpoint.to_owned());
        };
        *inline = match self.open_inline_values(key, inline.get())? {
            Some(opened) => RawValue::from_string(opened).map_err(damaged)?,
            None => return Ok(checkpoint.to_owned()),
        };
        serde_json::to_string(&fields).map_err(damaged)
    }

    /// `None` where they are not encrypted.
    pub(crate) fn open_inline_values(
        &self,
        key: &CheckpointKey,
        inline: &str,
    ) -> Opened<Option<String>> {
        if !inline.starts_with('[') {
            return self.plain(None);
        }
        let array: Vec<String> =
            serde_json::from_str(inline).map_err(|_| EncryptionError::Refused)?;
        let sealed = array.first().ok_or(EncryptionError::Refused)?;
        self.open_text(&of_checkpoint(key), sealed).map(Some)
    }

    pub(crate) fn seal_writes(&self, new: &mut NewWrites) {
        let (key, task) = (&new.key, new.task_id.as_str());
        for (position, write) in new.writes.iter_mut().enumerate() {
            let position = i32::try_from(position).unwrap_or(i32::MAX);
            let index = special_write_index(&write.channel).unwrap_or(position);
            let index = index.to_string();
            let place = of_write(key, task, &index, &write.channel);
            write.value = self.seal_value(&place, &write.value);
        }
    }

    pub(crate) fn open_write(&self, key: &CheckpointKey, write: &mut PendingWrite) -> Opened {
        let index = write.index.to_string();
        let place = of_write(key, &write.task_id, &index, &write.channel);
        let sealed = std::mem::replace(&mut write.value, Value::from_parts("", Vec::new()));
        write.value = self.open_value(&place, sealed)?;
        Ok(())
    }
}

/// The place of a channel's value in a thread and its graph.
pub(crate) fn of_value<'a>(
    (thread, namespace): (&'a str, &'a str),
    channel: &'a str,
    version: &'a str,
) -> [&'a str; 5] {
    [BLOBS, thread, namespace, channel, version]
}

fn of_checkpoint(key: &CheckpointKey) -> [&str; 4] {
    let (thread, namespace) = (key.thread_id.as_str(), key.namespace.as_str());
    [CHECKPOINTS, thread, namespace, key.checkpoint_id.as_str()]
}

fn of_write<'a>(
    key: &'a CheckpointKey,
    task: &'a str,
    index: &'a str,
    channel: &'a str,
) -> [&'a str; 7] {
    let [_, thread, namespace, checkpoint] = of_checkpoint(key);
    [WRITES, thread, namespace, checkpoint, task, index, channel]
}

/// Conversations. A title is longer then than its column: it stands with the metadata.
impl KeyRing {
    pub(crate) fn seal_conversation(&self, conversation: &mut Conversation) {
        if self.policy.readable >= Readable::Titles {
            return;
        }
        let mut known = Map::new();
        let title = conversation.title.take().map(Json::String);
        known.extend(title.map(|title| ("title".to_owned(), title)));
        let metadata = conversation.metadata.take();
        known.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
        if !known.is_empty() {
            let id = part(conversation.id.0);
            conversation.metadata = Some(self.seal_json(&[CONVERSATIONS, &id], &known.into()));
        }
    }

    pub(crate) fn open_conversation(&self, conversation: &mut Conversation) -> Opened {
        let is_sealed = conversation.metadata.as_ref().and_then(Json::as_str);
        let is_sealed = is_sealed.is_some_and(|text| text.starts_with(TEXT));
        if !is_sealed {
            let is_known = conversation.title.is_some() || conversation.metadata.is_some();
            return match self.policy.readable {
                Readable::Nothing if is_known => self.plain(()),
                _ => Ok(()),
            };
        }
        if conversation.title.is_some() {
            self.plain(())?;
        }
        let id = part(conversation.id.0);
        let sealed = conversation.metadata.take().unwrap_or_default();
        let mut known = self.open_json(&[CONVERSATIONS, &id], sealed)?;
        let title = known.get("title").and_then(Json::as_str);
        conversation.title = title.map(str::to_owned);
        conversation.metadata = known.get_mut("metadata").map(Json::take);
        Ok(())
    }
}

/// Messages.
impl KeyRing {
    pub(crate) fn seal_message(&self, message: &mut Message) {
        let [conversation, id] = [message.conversation_id.0, message.id.0].map(part);
        let place = |column| [MESSAGES, column, &*conversation, &*id];
        if self.policy.readable < Readable::Messages {
            message.content = self.seal_text(&place("content"), &message.content);
        }
        if !message.parts.is_empty() {
            let parts = json!(message.parts).to_string();
            message.parts = vec![Part::text(self.seal_text(&place("parts"), &parts))];
        }
        if let Some(metadata) = &message.metadata {
            message.metadata = Some(self.seal_json(&place("metadata"), metadata));
        }
    }

    pub(crate) fn open_message(&self, message: &mut Message) -> Opened {
        let [conversation, id] = [message.conversation_id.0, message.id.0].map(part);
        let place = |column| [MESSAGES, column, &*conversation, &*id];
        let is_sealed = message.content.starts_with(TEXT);
        if is_sealed || self.policy.readable < Readable::Messages {
            message.content = self.open_text(&place("content"), &message.content)?;
        }
        match &*message.parts {
            [] => {}
            [Part::Text { text }] if text.starts_with(TEXT) => {
                let parts = self.open_text(&place("parts"), text)?;
                let parts = serde_json::from_str(&parts);
                message.parts = parts.map_err(|_| EncryptionError::Refused)?;
            }
            _ => self.plain(())?,
        }
        if let Some(metadata) = message.metadata.take() {
            message.metadata = Some(self.open_json(&place("metadata"), metadata)?);
        }
        Ok(())
    }
}

/// Turns.
impl KeyRing {
    pub(crate) fn seal_turn(&self, turn: &mut Turn) {
        let [conversation, id] = [turn.conversation_id.0, turn.id.0].map(part);
        let place = |column| [TURNS, column, &*conversation, &*id];
        if let Some(input) = &turn.input {
            turn.input = Some(self.seal_json(&place("input"), input));
        }
        if let Some(error) = &turn.error {
            turn.error = Some(self.seal_text(&place("error"), error));
        }
        if let Some(asked) = &mut turn.interrupt {
            let sealed = self.seal_text(&place("interrupt"), &json!(asked).to_string());
            asked.question = sealed;
            asked.tool_call_id.clear();
            asked.client_calls.clear();
            asked.proposed = None;
        }
    }

    pub(crate) fn open_turn(&self, turn: &mut Turn) -> Opened {
        let [conversation, id] = [turn.conversation_id.0, turn.id.0].map(part);
        let place = |column| [TURNS, column, &*conversation, &*id];
        if let Some(input) = turn.input.take() {
            turn.input = Some(self.open_json(&place("input"), input)?);
        }
        if let Some(error) = &turn.error {
            turn.error = Some(self.open_text(&place("error"), error)?);
        }
        if let Some(asked) = &mut turn.interrupt {
            if asked.question.starts_with(TEXT) {
                let opened = self.open_text(&place("interrupt"), &asked.question)?;
                let opened = serde_json::from_str(&opened);
                *asked = opened.map_err(|_| EncryptionError::Refused)?;
            } else {
                self.plain(())?;
            }
        }
        Ok(())
    }

    pub(crate) fn seal_events(&self, batch: &mut EventBatch) {
        let events = Json::from(std::mem::take(&mut batch.events));
        batch.events =
            vec![self.seal_json(&of_events(batch).each_ref().map(|part| &**part), &events)];
    }

    pub(crate) fn open_events(&self, batch: &mut EventBatch) -> Opened {
        match &*batch.events {
            [Json::String(text)] if text.starts_with(TEXT) => {
                let place = of_events(batch);
                let place = place.each_ref().map(|part| &**part);
                let events = self.open_text(&place, text)?;
                let events = serde_json::from_str(&events);
                batch.events = events.map_err(|_| EncryptionError::Refused)?;
                Ok(())
            }
            _ => self.plain(()),
        }
    }

    pub(crate) fn seal_record(&self, owner: [Uuid; 2], record: &mut TurnRecord) {
        if let Some(value) = record.value.take() {
            let [conversation, turn] = owner.map(part);
            let place = [RECORDS, &conversation, &turn, &record.name];
            record.value = Some(self.seal_value(&place, &value));
        }
    }

    pub(crate) fn open_record(&self, owner: [Uuid; 2], record: &mut TurnRecord) -> Opened {
        if let Some(value) = record.value.take() {
            let [conversation, turn] = owner.map(part);
            let place = [RECORDS, &conversation, &turn, &record.name];
            record.value = Some(self.open_value(&place, value)?);
        }
        Ok(())
    }
}

/// The turn of a record.
pub(crate) fn of_owner(owner: &TurnOwner) -> [Uuid; 2] {
    [owner.conversation_id.0, owner.turn_id.0]
}

fn of_events(batch: &EventBatch) -> [String; 4] {
    let [conversation, turn] = [batch.conversation_id.0, batch.turn_id.0].map(part);
    [
        EVENTS.to_owned(),
        conversation,
        turn,
        batch.sequence.to_string(),
    ]
}

/// Items of the store.
impl KeyRing {
    pub(crate) fn seal_item(&self, item: &mut NewItem) {
        let namespace = item.key.namespace.join(".");
        let sealed = self.seal_text(&of_item(&namespace, &item.key), &item.value);
        item.value = Json::String(sealed).to_string();
    }

    fn open_item(&self, item: &mut Item) -> Opened {
        let Ok(text) = serde_json::from_str::<String>(&item.value) else {
            return self.plain(());
        };
        let namespace = item.key.namespace.join(".");
        item.value = self.open_text(&of_item(&namespace, &item.key), &text)?;
        Ok(())
    }

    pub(crate) fn open_answers(&self, answers: &mut [Answer]) -> Result<()> {
        for answer in answers {
            let items = match answer {
                Answer::Item(item) => item.as_mut_slice(),
                Answer::Items(items) => items.as_mut_slice(),
                Answer::Namespaces(_) | Answer::Done => continue,
            };
            for item in items {
                let opened = self.open_item(item);
                opened.map_err(|error| unreadable(format!("item {}", item.key.key), error))?;
            }
        }
        Ok(())
    }
}

fn of_item<'a>(namespace: &'a str, key: &'a ItemKey) -> [&'a str; 3] {
    [STORE, namespace, &key.key]
}

#[cfg(test)]
mod tests {
    use yai_agentkit_core::{CheckpointId, Namespace, ThreadId};

    use super::{
        super::{
            Policy,
            cipher::{DataKey, KEY_BYTES},
        },
        *,
    };

    fn ring() -> KeyRing {
        let policy = Policy {
            admits_plain: false,
            readable: Readable::Nothing,
        };
        let key = DataKey::new(1, &[7; KEY_BYTES]);
        KeyRing::new(key, policy).unwrap()
    }

    /// LangGraph's `EncryptedSerializer` goes on to read them.
    #[test]
    fn values_that_their_writer_has_encrypted_are_as_all_others() {
        let ring = ring();
        let value = Value::from_parts("msgpack+aes", vec![1, 2, 3]);
        let sealed = ring.seal_value(&["a"], &value);
        assert_eq!(sealed.type_tag(), "msgpack+aes+xchacha20");
        assert_eq!(ring.open_value(&["a"], sealed), Ok(value.clone()));
        let refused = ring.open_value(&["a"], value);
        assert_eq!(refused, Err(EncryptionError::Unencrypted));
    }

    #[test]
    fn a_value_is_not_taken_for_one_of_another_type() {
        let ring = ring();
        let sealed = ring.seal_value(&["a"], &Value::from_parts("bytes", vec![1]));
        let (_, bytes) = sealed.into_parts();
        let other = Value::from_parts("json+xchacha20", bytes);
        assert_eq!(
            ring.open_value(&["a"], other),
            Err(EncryptionError::Refused)
        );
    }

    #[test]
    fn what_stands_in_a_checkpoint_comes_back_digit_by_digit() {
        let ring = ring();
        let key = |id: &str| CheckpointKey {
            thread_id: ThreadId::from("thread"),
            namespace: Namespace::root(),
            checkpoint_id: CheckpointId::from(id),
        };
        let checkpoint =
            r#"{"channel_values":{"a":1.2300,"b":123456789012345678901234567890},"v":4}"#;
        let sealed = ring.seal_inline(&key("1"), checkpoint).unwrap();
        let json: Json = serde_json::from_str(&sealed).unwrap();
        let names = json["channel_values"].as_array().unwrap();
        assert_eq!(names[1..], ["a", "b"]);
        assert!(!sealed.contains("123456789"), "{sealed}");
        assert_eq!(
            ring.open_inline(&key("1"), &sealed),
            Ok(checkpoint.to_owned())
        );
        let moved = ring.open_inline(&key("2"), &sealed);
        assert_eq!(moved, Err(EncryptionError::Refused));
        for other in [r#"{"v":4}"#, r#"{"channel_values":null}"#] {
            let sealed = ring.seal_inline(&key("1"), other).unwrap();
            let opened = ring.open_inline(&key("1"), &sealed).unwrap();
            assert!(opened.contains(r#""channel_values":{}"#), "{opened}");
        }
    }
}
