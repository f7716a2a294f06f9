//! A checkpoint as the JSON of its row.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::{DbErr, QueryResult, TryGetable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointId, Error, NewCheckpoint, Result, Value,
    checkpoint::Version,
};

use super::{NewRawCheckpoint, RawValue};

/// The column `checkpoint`. `channel_values` holds only the inline ones, and `true` for the
/// snapshot of a delta channel.
#[derive(Serialize, Deserialize)]
pub(super) struct CheckpointRow {
    v: i64,
    id: CheckpointId,
    #[serde(default)]
    ts: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) channel_values: Map<String, Json>,
    #[serde(default)]
    pub(super) channel_versions: BTreeMap<String, Version>,
    #[serde(default)]
    versions_seen: BTreeMap<String, BTreeMap<String, Version>>,
    #[serde(flatten)]
    extra: Map<String, Json>,
}

/// Of values that are encrypted only the names behind them are known.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Json>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Inline {
        Values(Map<String, Json>),
        Encrypted(Vec<String>),
    }

    let inline = Option::deserialize(deserializer)?;
    Ok(match inline {
        None => Map::new(),
        Some(Inline::Values(values)) => values,
        Some(Inline::Encrypted(names)) => {
            let names = names.into_iter().skip(1);
            names.map(|name| (name, Json::Null)).collect()
        }
    })
}

impl CheckpointRow {
    /// When it was made, if it says so.
    pub(super) fn time(&self) -> Option<DateTime<Utc>> {
        Checkpoint::time(&self.ts)
    }

    /// Joins the row with the values that are stored apart.
    pub(super) fn join(self, stored: BTreeMap<String, Value>) -> Checkpoint {
        let mut values: BTreeMap<_, _> = self
            .channel_values
            .into_iter()
            .map(|(channel, json)| (channel, ChannelValue::Inline(json)))
            .collect();
        for (channel, value) in stored {
            let value = stored_channel_value(values.get(&channel), value);
            values.insert(channel, value);
        }
        Checkpoint {
            v: self.v,
            id: self.id,
            ts: self.ts,
            channel_values: values,
            channel_versions: self.channel_versions,
            versions_seen: self.versions_seen,
            extra: self.extra,
        }
    }

    pub(super) fn format(&self) -> i64 {
        self.v
    }
}

/// A checkpoint with its JSON as text and the values of its new versions.
pub(super) fn to_raw(new: NewCheckpoint) -> Result<NewRawCheckpoint> {
    let key = new.key();
    let mut inline = Map::new();
    let mut stored = BTreeMap::new();
    for (channel, value) in new.checkpoint.channel_values {
        match value {
            ChannelValue::Inline(json) => {
                inline.insert(channel, json);
            }
            ChannelValue::Stored(value) => {
                stored.insert(channel, value);
            }
            ChannelValue::DeltaSnapshot(value) => {
                inline.insert(channel.clone(), true.into());
                stored.insert(channel, value);
            }
        }
    }
    let row = CheckpointRow {
        v: new.checkpoint.v,
        id: new.checkpoint.id,
        ts: new.checkpoint.ts,
        channel_values: inline,
        channel_versions: new.checkpoint.channel_versions,
        versions_seen: new.checkpoint.versions_seen,
        extra: new.checkpoint.extra,
    };
    let values = new
        .new_versions
        .into_iter()
        .filter_map(|(channel, version)| {
            Some(RawValue {
                value: stored.remove(&channel)?,
                version: version.to_string(),
                channel,
            })
        });
    Ok(NewRawCheckpoint {
        key,
        parent: new.parent,
        checkpoint: write_json("checkpoint", &row)?,
        metadata: write_json("metadata", &new.metadata)?,
        values: values.collect(),
    })
}

/// A stored value as a channel's value: a snapshot where the checkpoint marks it as one.
pub(super) fn stored_channel_value(inline: Option<&ChannelValue>, stored: Value) -> ChannelValue {
    match inline {
        Some(ChannelValue::Inline(Json::Bool(true))) => ChannelValue::DeltaSnapshot(stored),
        _ => ChannelValue::Stored(stored),
    }
}

/// JSON of a row that this library or LangGraph wrote.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(column: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::unreadable(format!("checkpoints.{column}"), error))
}

fn write_json<T: Serialize>(column: &str, value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::backend(format!("write checkpoints.{column}"), error))
}

/// A stored value, `None` for LangGraph's tag of no value.
pub(super) fn stored_value(type_tag: Option<String>, bytes: Option<Vec<u8>>) -> Option<Value> {
    match type_tag.as_deref() {
        Some("empty") => None,
        // The one tag worth not to allocate.
        Some("msgpack") => Some(Value::from_parts("msgpack", bytes.unwrap_or_default())),
        _ => Some(Value::from_parts(
            type_tag.unwrap_or_default(),
            bytes.unwrap_or_default(),
        )),
    }
}

/// The columns of a row from left to right.
pub(super) struct Columns<'a> {
    row: &'a QueryResult,
    next: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn new(row: &'a QueryResult) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: TryGetable>(&mut self) -> Result<T, DbErr> {
        let column = self.next;
        self.next += 1;
        self.row.try_get_by_index(column)
    }
}
