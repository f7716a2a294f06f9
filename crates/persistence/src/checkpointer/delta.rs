//! The history of delta channels: one statement walks the line of ancestors, for each channel up
//! to its nearest stored value, by the primary keys.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::DbErr;
use serde_json::{Map, Value as Json};
use yai_agentkit_core::{
    ChannelValue, CheckpointId, CheckpointKey, CheckpointSelector, Result, Value,
    checkpoint::{DeltaChannelHistory, PendingWrite},
};

use super::{
    read::{sort_writes, unreadable_checkpoint},
    row::{Columns, read_json, stored_channel_value, stored_value},
};
use crate::{
    connection::{Connection, retrying},
    encryption::{EncryptionError, KeyRing, of_value},
    error::storage_error,
    sql::{Query, Sql},
};

/// `chain` is the line of ancestors from the parent on; `open` are the channels that no nearer
/// ancestor has a value of, as a JSON array. A checkpoint that is its own parent ends the line; a
/// longer circle, which only a broken writer makes, ends with the query timeout. $3 is the
/// checkpoint's id, or null for the latest. OFFSET 0 as in `read.rs`: else every step may read the
/// whole thread.
const HISTORY: Sql = Sql {
    postgres: include_str!("sql/delta_history.postgres.sql"),
    sqlite: include_str!("sql/delta_history.sqlite.sql"),
};

pub(super) async fn history(
    connection: &Connection,
    selector: &CheckpointSelector,
    channels: &[String],
    ring: Option<&KeyRing>,
) -> Result<BTreeMap<String, DeltaChannelHistory>> {
    let mut histories: BTreeMap<_, _> = channels
        .iter()
        .map(|channel| (channel.clone(), Channel::default()))
        .collect();
    if histories.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = retrying!(
        connection,
        query(connection, selector, channels).rows(connection)
    );
    let rows = rows.map_err(|error| storage_error("delta channel history", error))?;
    for row in &rows {
        let mut columns = Columns::new(row);
        let part = Part::read(&mut columns);
        let mut part = part.map_err(|error| storage_error("delta channel history", error))?;
        if let Some(ring) = ring {
            let key = part.key(selector);
            let opened = part.open(ring, &key);
            opened.map_err(|error| unreadable_checkpoint(&key, error))?;
        }
        if let Some(channel) = histories.get_mut(&part.channel) {
            channel.add(part)?;
        }
    }
    Ok(histories
        .into_iter()
        .map(|(name, channel)| (name, channel.finish()))
        .collect())
}

pub(super) fn query(
    connection: &Connection,
    selector: &CheckpointSelector,
    channels: &[String],
) -> Query {
    let channels: BTreeSet<&str> = channels.iter().map(String::as_str).collect();
    let open: Json = channels.into_iter().collect();
    let id = selector.checkpoint_id.as_ref().map(|id| id.as_str());
    HISTORY
        .query(connection)
        .with(selector.thread_id.as_str())
        .with(selector.namespace.as_str())
        .with(id)
        .with(open.to_string())
}

struct Part {
    kind: i32,
    depth: i32,
    channel: String,
    /// A type tag, or the JSON of all inline values.
    text: Option<String>,
    bytes: Option<Vec<u8>>,
    task_id: Option<String>,
    task_path: Option<String>,
    index: Option<i32>,
    /// The id of the checkpoint, or the version of a stored value.
    place: Option<String>,
}

impl Part {
    fn read(columns: &mut Columns<'_>) -> Result<Self, DbErr> {
        Ok(Self {
            kind: columns.take()?,
            depth: columns.take()?,
            channel: columns.take()?,
            text: columns.take()?,
            bytes: columns.take()?,
            task_id: columns.take()?,
            task_path: columns.take()?,
            index: columns.take()?,
            place: columns.take()?,
        })
    }

    fn key(&self, selector: &CheckpointSelector) -> CheckpointKey {
        CheckpointKey {
            thread_id: selector.thread_id.clone(),
            namespace: selector.namespace.clone(),
            checkpoint_id: CheckpointId::from(self.place.as_deref().unwrap_or_default()),
        }
    }

    /// Decrypts it, at a place that is `key`, or has its thread and namespace.
    fn open(&mut self, ring: &KeyRing, key: &CheckpointKey) -> Result<(), EncryptionError> {
        match self.kind {
            0 => {
                let mut write = self.write();
                ring.open_write(key, &mut write)?;
                let (tag, bytes) = write.value.into_parts();
                (self.text, self.bytes) = (Some(tag), Some(bytes));
            }
            1 => {
                let Some(value) = stored_value(self.text.take(), self.bytes.take()) else {
                    self.text = Some("empty".to_owned());
                    return Ok(());
                };
                let graph = (key.thread_id.as_str(), key.namespace.as_str());
                let version = self.place.as_deref().unwrap_or_default();
                let value = ring.open_value(&of_value(graph, &self.channel, version), value)?;
                let (tag, bytes) = value.into_parts();
                (self.text, self.bytes) = (Some(tag), Some(bytes));
            }
            _ => {
                let inline = self.text.as_deref().unwrap_or("{}");
                if let Some(opened) = ring.open_inline_values(key, inline)? {
                    self.text = Some(opened);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self) -> PendingWrite {
        PendingWrite {
            task_id: self.task_id.clone().unwrap_or_default(),
            task_path: self.task_path.clone().unwrap_or_default(),
            index: self.index.unwrap_or_default(),
            channel: self.channel.clone(),
            value: Value::from_parts(
                self.text.take().unwrap_or_default(),
                self.bytes.take().unwrap_or_default(),
            ),
        }
    }
}

#[derive(Default)]
struct Channel {
    /// By distance from the checkpoint.
    writes: BTreeMap<i32, Vec<PendingWrite>>,
    stored: Option<Value>,
    inline: Option<Json>,
}

impl Channel {
    fn add(&mut self, mut part: Part) -> Result<()> {
        match part.kind {
            0 => {
                let of_checkpoint = self.writes.entry(part.depth).or_default();
                of_checkpoint.push(part.write());
            }
            1 => self.stored = stored_value(part.text, part.bytes),
            _ => {
                let mut inline: Map<String, Json> =
                    read_json("checkpoint", part.text.as_deref().unwrap_or("{}"))?;
                self.inline = inline.remove(&part.channel);
            }
        }
        Ok(())
    }

    fn finish(self) -> DeltaChannelHistory {
        let inline = self.inline.map(ChannelValue::Inline);
        let seed = match self.stored {
            Some(value) => Some(stored_channel_value(inline.as_ref(), value)),
            None => inline,
        };
        let writes = self.writes.into_values().rev().flat_map(|mut writes| {
            sort_writes(&mut writes);
            writes
        });
        DeltaChannelHistory {
            seed,
            writes: writes.collect(),
        }
    }
}
