//! What crosses the border: plain tuples of texts and bytes.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, SecondsFormat};
use pyo3::{
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyBytes, PyDict, PyTuple},
};
use serde_json::{Map, Value as Json};
use yai_agentkit_core::{
    ChannelValue, CheckpointKey, Error, Result, Value,
    checkpoint::{ChannelWrite, DeltaChannelHistory, PendingWrite, Thread, ThreadCursor, Version},
};
use yai_agentkit_persistence::{RawCheckpoint, RawValue};

/// thread_id, checkpoint_ns, checkpoint_id.
#[derive(FromPyObject)]
pub(crate) struct Place(String, String, String);

/// thread_id, checkpoint_ns, checkpoint_id, metadata, before, limit.
pub(crate) type Selection = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<u64>,
);

/// channel, version, type, bytes.
#[derive(FromPyObject)]
pub(crate) struct ValueIn(String, VersionIn, String, PyBackedBytes);

#[derive(FromPyObject)]
enum VersionIn {
    Text(String),
    Integer(i64),
    Float(f64),
}

/// channel, type, bytes.
#[derive(FromPyObject)]
pub(crate) struct ChannelWriteIn(String, String, PyBackedBytes);

/// (thread_id, checkpoint_ns, checkpoint_id, parent, checkpoint, metadata, values, writes, sends)
pub(crate) struct StoredOut(pub(crate) RawCheckpoint);

/// {channel: (inline seed as JSON, stored seed, writes)}
pub(crate) struct History(pub(crate) BTreeMap<String, DeltaChannelHistory>);

/// (thread_id, parent_id, updated_at)
pub(crate) struct ThreadOut(pub(crate) Thread);

impl From<Place> for CheckpointKey {
    fn from(Place(thread_id, namespace, checkpoint_id): Place) -> Self {
        Self {
            thread_id: thread_id.into(),
            namespace: namespace.into(),
            checkpoint_id: checkpoint_id.into(),
        }
    }
}

impl TryFrom<ValueIn> for RawValue {
    type Error = Error;

    fn try_from(ValueIn(channel, version, type_tag, bytes): ValueIn) -> Result<Self> {
        let version = match version {
            VersionIn::Text(version) => Version::Text(version),
            VersionIn::Integer(version) => Version::Integer(version),
            VersionIn::Float(version) => Version::Float(version),
        };
        version.validate("version")?;
        Ok(Self {
            channel,
            version: version.to_string(),
            value: value(type_tag, &bytes),
        })
    }
}

impl From<ChannelWriteIn> for ChannelWrite {
    fn from(ChannelWriteIn(channel, type_tag, bytes): ChannelWriteIn) -> Self {
        Self {
            channel,
            value: value(type_tag, &bytes),
        }
    }
}

pub(crate) fn value(type_tag: String, bytes: &[u8]) -> Value {
    let type_tag = match type_tag.as_str() {
        "msgpack" => Cow::Borrowed("msgpack"),
        _ => Cow::Owned(type_tag),
    };
    Value::from_parts(type_tag, bytes.to_vec())
}

impl<'py> IntoPyObject<'py> for StoredOut {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let Self(found) = self;
        let values: Vec<_> = found
            .values
            .iter()
            .map(|(channel, value)| (channel, value.type_tag(), bytes(py, value)))
            .collect();
        let sends: Vec<_> = found
            .pending_sends
            .iter()
            .map(|value| (value.type_tag(), bytes(py, value)))
            .collect();
        (
            found.key.thread_id.as_str(),
            found.key.namespace.as_str(),
            found.key.checkpoint_id.as_str(),
            found.parent.as_ref().map(|id| id.as_str()),
            found.checkpoint,
            found.metadata,
            values,
            writes(py, &found.pending_writes),
            sends,
        )
            .into_pyobject(py)
    }
}

impl<'py> IntoPyObject<'py> for History {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let histories = PyDict::new(py);
        for (channel, history) in self.0 {
            let (inline, stored) = match &history.seed {
                Some(ChannelValue::Inline(json)) => (Some(json.to_string()), None),
                Some(ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value)) => {
                    (None, Some((value.type_tag(), bytes(py, value))))
                }
                None => (None, None),
            };
            histories.set_item(channel, (inline, stored, writes(py, &history.writes)))?;
        }
        Ok(histories)
    }
}

impl<'py> IntoPyObject<'py> for ThreadOut {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let Self(thread) = self;
        let parent = thread.parent.as_ref().map(|id| id.as_str());
        let updated_at = thread
            .updated_at
            .to_rfc3339_opts(SecondsFormat::Micros, false);
        (thread.id.as_str(), parent, updated_at).into_pyobject(py)
    }
}

/// (task_id, channel, type, bytes)
type WriteOut<'a, 'py> = (&'a str, &'a str, &'a str, Bound<'py, PyBytes>);

fn writes<'a, 'py>(py: Python<'py>, writes: &'a [PendingWrite]) -> Vec<WriteOut<'a, 'py>> {
    let parts = |write: &'a PendingWrite| {
        let value = &write.value;
        (
            write.task_id.as_str(),
            write.channel.as_str(),
            value.type_tag(),
            bytes(py, value),
        )
    };
    writes.iter().map(parts).collect()
}

fn bytes<'py>(py: Python<'py>, value: &Value) -> Bound<'py, PyBytes> {
    PyBytes::new(py, value.bytes())
}

pub(crate) fn json_value(field: &'static str, text: &str) -> Result<Json> {
    serde_json::from_str(text).map_err(|error| Error::invalid(field, error.to_string()))
}

pub(crate) fn json_object(field: &'static str, text: &str) -> Result<Map<String, Json>> {
    serde_json::from_str(text).map_err(|error| Error::invalid(field, error.to_string()))
}

/// From (updated_at, thread_id).
pub(crate) fn cursor((updated_at, id): (String, String)) -> Result<ThreadCursor> {
    let updated_at = DateTime::parse_from_rfc3339(&updated_at)
        .map_err(|error| Error::invalid("after", error.to_string()))?;
    Ok(ThreadCursor {
        updated_at: updated_at.to_utc(),
        id: id.into(),
    })
}
