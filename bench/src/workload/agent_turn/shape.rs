//! The data of the workload, the same for everybody.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointId, Namespace, NewCheckpoint, NewWrites, ThreadId, Value,
    checkpoint::{ChannelWrite, CheckpointMetadata, CheckpointSource, Version},
};

use crate::Result;

/// Steps of a turn.
pub(super) const STEPS: usize = 10;
/// Turns of a thread; then its client begins another one.
pub(super) const TURNS: usize = 10;
/// Bytes of a message as MessagePack.
pub(super) const MESSAGE: usize = 400;

pub(super) const MESSAGES: &str = "messages";
pub(super) const CONTEXT: &str = "context";
/// Has versions and never a value, as LangGraph's triggers.
pub(super) const TRIGGER: &str = "branch:to:agent";
pub(super) const TASK_PATH: &str = "~__pregel_pull, agent";

const WORDS: &str = "a the of to and in is it you that he was for on are with as his they be at one \
    have this from or had by hot but some what there we can out other were all your when up use how \
    said an each she which do their time if will way about many then them would write like so";
/// Of a message without its content.
const ENVELOPE: usize = 27;

/// One message of the list.
#[derive(Clone, Serialize)]
pub(super) struct Message {
    pub(super) role: &'static str,
    pub(super) content: String,
}

/// The messages of a turn: words in a random order, so that they compress as text does.
pub(super) fn messages() -> Vec<Message> {
    let words: Vec<_> = WORDS.split_whitespace().collect();
    let mut random = 42_u64;
    let mut message = || {
        let mut content = String::new();
        while content.len() < MESSAGE - ENVELOPE {
            // Knuth's MMIX generator.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let word = usize::try_from(random >> 33).unwrap_or_default() % words.len();
            content.push_str(words[word]);
            content.push(' ');
        }
        content.truncate(MESSAGE - ENVELOPE);
        Message {
            role: "assistant",
            content,
        }
    };
    (0..STEPS).map(|_| message()).collect()
}

/// Where a thread is.
pub(super) struct Progress {
    pub(super) thread: ThreadId,
    head: Option<CheckpointId>,
    versions: BTreeMap<String, Version>,
    step: usize,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Self {
            thread: uuid::Uuid::new_v4().to_string().into(),
            head: None,
            versions: BTreeMap::new(),
            step: 0,
        }
    }

    /// The checkpoint and the writes of the next step, whose list are these messages.
    pub(super) fn next(&mut self, messages: &[Message]) -> Result<(NewCheckpoint, NewWrites)> {
        self.step += 1;
        let seen = self.versions.clone();
        for channel in [MESSAGES, CONTEXT, TRIGGER] {
            let version = Version::next(self.versions.get(channel));
            self.versions.insert(channel.to_owned(), version);
        }
        let context = Value::encode(&context(self.step))?;
        let mut checkpoint = Checkpoint::after(self.head.as_ref());
        checkpoint.channel_values = BTreeMap::from([
            (
                MESSAGES.to_owned(),
                ChannelValue::Stored(Value::encode(messages)?),
            ),
            (CONTEXT.to_owned(), ChannelValue::Stored(context.clone())),
        ]);
        checkpoint.channel_versions = self.versions.clone();
        checkpoint.versions_seen = BTreeMap::from([
            ("__input__".to_owned(), BTreeMap::new()),
            ("agent".to_owned(), seen.clone()),
            ("tools".to_owned(), seen),
        ]);
        let updated = json!([TRIGGER, CONTEXT, MESSAGES]);
        checkpoint
            .extra
            .insert("updated_channels".to_owned(), updated);
        let parent = self.head.replace(checkpoint.id.clone());
        let step = i64::try_from(self.step)?;
        let checkpoint = NewCheckpoint {
            thread_id: self.thread.clone(),
            namespace: Namespace::root(),
            parent,
            checkpoint,
            metadata: CheckpointMetadata::new(CheckpointSource::Loop, step),
            new_versions: self.versions.clone(),
        };
        let write = |channel: &str, value| ChannelWrite {
            channel: channel.to_owned(),
            value,
        };
        let writes = NewWrites {
            key: checkpoint.key(),
            task_id: uuid::Uuid::new_v4().to_string(),
            task_path: TASK_PATH.to_owned(),
            writes: vec![
                write(MESSAGES, Value::encode(&messages[messages.len() - 1..])?),
                write(CONTEXT, context),
            ],
        };
        Ok((checkpoint, writes))
    }
}

/// The small dict.
pub(super) fn context(step: usize) -> serde_json::Value {
    json!({"locale": "en", "step": step, "tools": ["search", "calculator"], "user": "user-42"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_size() -> Result<()> {
        for message in messages() {
            assert_eq!(Value::encode(&message)?.bytes().len(), MESSAGE);
        }
        Ok(())
    }
}
