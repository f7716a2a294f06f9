//! What an agent was doing: checkpoints in LangGraph's format (langgraph-checkpoint 4.x,
//! `base/__init__.py`), its protocol on them, and a state of one's own in them.

mod checkpointer;
mod fence;
mod replay;
mod state;
mod value;

pub use checkpointer::{
    ChannelWrite, CheckpointKey, CheckpointQuery, CheckpointSelector, Checkpointer,
    DeltaChannelHistory, NewCheckpoint, NewWrites, PruneStrategy, Thread, ThreadCursor, ValueKey,
    Values, special_write_index,
};
pub use fence::{Fence, Parent, PutOptions};
pub use state::{CheckpointerExt, ThreadState, join_items, join_lists};
pub use value::{EncodeError, Value};

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{CheckpointId, Error, Result, clock, validate};

/// The channel that carries LangGraph's pending sends.
pub const TASKS: &str = "__pregel_tasks";

/// The version of a channel's value: greater than every earlier one of its channel.
#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Version {
    /// As LangGraph's base saver counts.
    Integer(i64),
    /// Allowed by LangGraph.
    Float(f64),
    /// As the PostgreSQL saver counts: 32 digits, a point, digits against clashes; and, shorter, this
    /// library.
    Text(String),
}

/// From this count on a version has as many digits as LangGraph's.
const LONGER: i64 = 10_000_000;

/// Of the random fraction of a short version: 36 bits in six characters.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

impl Version {
    /// The version after `current`: a count and a random fraction, as in LangGraph's PostgreSQL saver,
    /// but short, since a checkpoint names one for each channel. LangGraph's programs read the count
    /// of it and go on with versions of 32 digits, which sort behind all that begin with a sign; and
    /// so does this where theirs are.
    ///
    /// ```
    /// use yai_agentkit_core::checkpoint::Version;
    /// let first = Version::next(None);
    /// assert!(first.to_string().starts_with("+0000001."));
    /// assert!(Version::next(Some(&first)) > first);
    /// ```
    pub fn next(current: Option<&Self>) -> Self {
        let (count, is_short) = match current {
            None => (0, true),
            Some(Self::Integer(count)) => (*count, false),
            #[expect(clippy::cast_possible_truncation, reason = "a count far below 2^53")]
            Some(Self::Float(count)) => (*count as i64, false),
            Some(Self::Text(text)) => {
                let count = text.split('.').next().and_then(|count| count.parse().ok());
                (count.unwrap_or(0), text.starts_with('+'))
            }
        };
        let next = count + 1;
        let random = uuid::Uuid::new_v4();
        Self::Text(if is_short && next < LONGER {
            let bytes = random.as_bytes()[..6].iter();
            let digits = bytes.map(|byte| char::from(DIGITS[usize::from(byte % 64)]));
            format!("+{next:07}.{}", digits.collect::<String>())
        } else {
            format!("{next:032}.{:016}", random.as_u128() % 10_u128.pow(16))
        })
    }

    /// Refuses a NUL character, and a float that JSON writes with an exponent, a sign or not at
    /// all: the version in the checkpoint would not be the key of its value, and the value be lost.
    pub fn validate(&self, field: &'static str) -> Result<()> {
        match self {
            Self::Text(version) => validate::text(field, version),
            Self::Float(version) if version.to_bits() != 0 && !(1e-4..1e16).contains(version) => {
                let range = "a float must be 0 or between 0.0001 and 1e16";
                Err(Error::invalid(field, range))
            }
            Self::Integer(_) | Self::Float(_) => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    /// The version as PostgreSQL's `jsonb_each_text` prints it: the key of a stored value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(version) => version.fmt(f),
            Self::Float(version) if version.fract() == 0.0 => write!(f, "{version:.1}"),
            Self::Float(version) => version.fmt(f),
            Self::Text(version) => f.write_str(version),
        }
    }
}

/// The value of a channel in a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum ChannelValue {
    /// A JSON null, boolean, number or string, kept within the checkpoint itself.
    Inline(Json),
    /// Anything else, stored once per version.
    Stored(Value),
    /// LangGraph's `_DeltaSnapshot`: a stored full value at which replaying a delta channel starts.
    /// The checkpoint itself marks it with an inline `true`.
    DeltaSnapshot(Value),
}

impl ChannelValue {
    /// The value as JSON for people to read, see [`Value::to_json`].
    pub fn to_json(&self) -> Json {
        match self {
            Self::Inline(json) => json.clone(),
            Self::Stored(value) | Self::DeltaSnapshot(value) => value.to_json(),
        }
    }
}

/// The state of a thread at one point of its execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The version of the format; LangGraph 1.x writes 4.
    pub v: i64,
    /// Sorts by time.
    pub id: CheckpointId,
    /// When it was made, ISO 8601, as its writer wrote it.
    pub ts: String,
    /// The values of the channels that have one.
    pub channel_values: BTreeMap<String, ChannelValue>,
    /// The version of every channel ever written, with or without a value.
    pub channel_versions: BTreeMap<String, Version>,
    /// For each node the versions that it has seen.
    pub versions_seen: BTreeMap<String, BTreeMap<String, Version>>,
    /// Every other field, kept as it came (`updated_channels`, `pending_sends`).
    pub extra: Map<String, Json>,
}

impl Checkpoint {
    /// The version of the format that this library writes.
    pub const FORMAT: i64 = 4;

    /// An empty checkpoint that sorts behind `parent`.
    pub fn after(parent: Option<&CheckpointId>) -> Self {
        Self {
            v: Self::FORMAT,
            id: CheckpointId::after(parent),
            ts: clock::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, false),
            channel_values: BTreeMap::new(),
            channel_versions: BTreeMap::new(),
            versions_seen: BTreeMap::new(),
            extra: Map::new(),
        }
    }
}

impl Checkpoint {
    /// The time that [`ts`](Self::ts) says, if it says one.
    pub fn time(ts: &str) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(ts)
            .ok()
            .map(|time| time.to_utc())
    }
}

/// Where a checkpoint comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointSource {
    /// The input of a run.
    Input,
    /// A step of a run.
    Loop,
    /// A manual change of state.
    Update,
    /// A copy of another checkpoint.
    Fork,
}

impl CheckpointSource {
    /// The source as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Loop => "loop",
            Self::Update => "update",
            Self::Fork => "fork",
        }
    }
}

/// What is known about a checkpoint: a JSON object, of which LangGraph fills `source`, `step`,
/// `parents`, `run_id` and `counters_since_delta_snapshot`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckpointMetadata(pub Map<String, Json>);

impl CheckpointMetadata {
    /// Metadata with `source` and `step` (−1 for the input, 0 for the first superstep).
    pub fn new(source: CheckpointSource, step: i64) -> Self {
        Self::default()
            .with("source", source.as_str())
            .with("step", step)
            .with("parents", Map::new())
    }

    /// With `field` set to `value`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Json>) -> Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }

    /// The number of the superstep.
    pub fn step(&self) -> Option<i64> {
        self.0.get("step")?.as_i64()
    }

    /// The run that made the checkpoint.
    pub fn run_id(&self) -> Option<&str> {
        self.0.get("run_id")?.as_str()
    }

    /// The root graph's checkpoint from which the call of this subgraph started.
    pub fn root_parent(&self) -> Option<&str> {
        self.0.get("parents")?.get("")?.as_str()
    }

    /// The delta channels that have changed since their last snapshot.
    pub fn delta_channels(&self) -> impl Iterator<Item = &str> {
        self.0
            .get("counters_since_delta_snapshot")
            .and_then(Json::as_object)
            .into_iter()
            .flat_map(|counters| counters.keys().map(String::as_str))
    }

    /// PostgreSQL's `@>`: whether these metadata contain `pattern`. Objects contain objects of
    /// which they have every field, arrays contain arrays of which they have every item.
    pub fn contains(&self, pattern: &Map<String, Json>) -> bool {
        object_contains(&self.0, pattern)
    }
}

fn object_contains(object: &Map<String, Json>, pattern: &Map<String, Json>) -> bool {
    pattern.iter().all(|(key, expected)| {
        object
            .get(key)
            .is_some_and(|value| contains(value, expected))
    })
}

fn contains(value: &Json, pattern: &Json) -> bool {
    match (value, pattern) {
        (Json::Object(object), Json::Object(pattern)) => object_contains(object, pattern),
        (Json::Array(items), Json::Array(patterns)) => patterns
            .iter()
            .all(|pattern| items.iter().any(|item| contains(item, pattern))),
        // Numbers compare by value, whatever their notation. Two integers are equal or they are
        // not: as floats, large neighbours would be the same.
        (Json::Number(number), Json::Number(pattern)) if number.is_f64() || pattern.is_f64() => {
            number.as_f64() == pattern.as_f64()
        }
        _ => value == pattern,
    }
}

/// A value that a task of a superstep has written and that no later checkpoint contains yet.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingWrite {
    /// The task.
    pub task_id: String,
    /// Its place in the graph; orders the writes of parallel tasks.
    pub task_path: String,
    /// The write's place within its task; negative for the special channels.
    pub index: i32,
    /// The channel written to.
    pub channel: String,
    /// What was written.
    pub value: Value,
}

/// A checkpoint with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointTuple {
    /// Its place.
    pub key: CheckpointKey,
    /// The state.
    pub checkpoint: Checkpoint,
    /// What is known about it.
    pub metadata: CheckpointMetadata,
    /// The checkpoint that it follows, in the same thread and namespace.
    pub parent: Option<CheckpointId>,
    /// What its tasks have written, ordered by task path, task id and index.
    pub pending_writes: Vec<PendingWrite>,
    /// For a checkpoint before format 4 the sends among its parent's writes, in the same order.
    /// LangGraph reads them as the value of the channel [`TASKS`].
    pub pending_sends: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containment_is_that_of_postgres() {
        let contains = |value: Json, pattern: Json| contains(&value, &pattern);
        assert!(contains(json!({"a": 1, "b": 2}), json!({"a": 1})));
        assert!(contains(
            json!({"a": {"b": [1, 2, {"c": 3, "d": 4}]}}),
            json!({"a": {"b": [{"c": 3}]}})
        ));
        assert!(contains(json!([1, 2, 2]), json!([2, 1, 1])));
        assert!(contains(json!({"a": 1.0}), json!({"a": 1})));
        assert!(contains(json!({"a": null}), json!({"a": null})));
        assert!(contains(json!({"a": 1}), json!({})));
        assert!(!contains(
            json!({"a": u64::MAX}),
            json!({"a": u64::MAX - 1})
        ));
        assert!(!contains(json!({"a": [1]}), json!({"a": 1})));
        assert!(!contains(json!({"a": "1"}), json!({"a": 1})));
        assert!(!contains(json!({}), json!({"a": null})));
        assert!(!contains(json!({"a": {}}), json!({"a": []})));
    }

    #[test]
    fn a_version_prints_as_the_key_of_its_value() {
        assert_eq!(Version::Integer(3).to_string(), "3");
        assert_eq!(Version::Float(2.0).to_string(), "2.0");
        assert_eq!(Version::Float(2.5).to_string(), "2.5");
        assert_eq!(Version::Text("0007.1".into()).to_string(), "0007.1");
    }
}
