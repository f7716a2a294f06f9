use std::collections::BTreeMap;

use async_trait::async_trait;
use rmpv::{Value as Msgpack, decode::read_value_with_max_depth};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Number, Value as Json};

use crate::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointMetadata, CheckpointSelector,
    CheckpointSource, CheckpointTuple, Checkpointer, EncodeError, Error, Namespace, NewCheckpoint,
    PutOptions, Result, ThreadId, Value, Version, validate::MAX_DEPTH,
};

/// The channel of a state that is not a struct or a map, LangGraph's name for it.
const ROOT: &str = "__root__";

/// The simple face of a [`Checkpointer`]: plain serde state, by the key of its thread.
///
/// The fields of the state are the channels of the checkpoints, so LangGraph and the tools for
/// people read them. Saving writes only the fields that have changed, and of a long list only the
/// parts that have: it is kept in the channels `list`, `list#1`, `list#2`, …, so that a list that
/// grows at its end is written by what is added, not again and again whole.
#[async_trait]
pub trait CheckpointerExt: Checkpointer {
    /// The latest state of `key`, `None` when it has none.
    async fn latest<S: DeserializeOwned>(&self, key: &ThreadId) -> Result<Option<S>>;

    /// Saves `state` as the latest of `key`. Reads the latest checkpoint first; where a state is
    /// saved again and again, [`ThreadState`] spares that.
    async fn save<S: Serialize + Sync>(&self, key: &ThreadId, state: &S) -> Result<CheckpointId>;

    /// The keys that have state, the last saved first.
    async fn keys(&self, limit: u64) -> Result<Vec<ThreadId>>;

    /// Deletes the state of `key`, its history included.
    async fn delete(&self, key: &ThreadId) -> Result<()>;
}

#[async_trait]
impl<C: Checkpointer + ?Sized> CheckpointerExt for C {
    async fn latest<S: DeserializeOwned>(&self, key: &ThreadId) -> Result<Option<S>> {
        ThreadState::load(self, key.clone()).await?.state()
    }

    async fn save<S: Serialize + Sync>(&self, key: &ThreadId, state: &S) -> Result<CheckpointId> {
        let mut thread = ThreadState::load(self, key.clone()).await?;
        let step = thread.next_step();
        thread
            .save(
                self,
                state,
                CheckpointMetadata::new(CheckpointSource::Update, step),
            )
            .await
    }

    async fn keys(&self, limit: u64) -> Result<Vec<ThreadId>> {
        let page = self.threads(limit, None).await?;
        Ok(page.items.into_iter().map(|thread| thread.id).collect())
    }

    async fn delete(&self, key: &ThreadId) -> Result<()> {
        self.delete_thread(key).await
    }
}

/// The state of one thread for the one who works on it: remembers the last checkpoint, so that
/// saving the next takes one write and no read.
#[derive(Clone, Debug)]
pub struct ThreadState {
    thread_id: ThreadId,
    head: Option<Head>,
}

#[derive(Clone, Debug)]
struct Head {
    id: CheckpointId,
    step: i64,
    values: BTreeMap<String, ChannelValue>,
    versions: BTreeMap<String, Version>,
}

impl ThreadState {
    /// Reads the latest checkpoint of `thread_id`.
    pub async fn load<C: Checkpointer + ?Sized>(
        checkpointer: &C,
        thread_id: ThreadId,
    ) -> Result<Self> {
        Self::load_at(checkpointer, CheckpointSelector::latest(thread_id)).await
    }

    /// Reads the checkpoint that `selector` names. Saving goes on behind it, in the root graph.
    pub async fn load_at<C: Checkpointer + ?Sized>(
        checkpointer: &C,
        selector: CheckpointSelector,
    ) -> Result<Self> {
        let tuple = checkpointer.get(&selector).await?;
        Ok(Self::new(selector.thread_id, tuple))
    }

    /// The state in `latest`, which is the latest checkpoint of `thread_id`; `None` where there is
    /// none.
    pub fn new(thread_id: ThreadId, latest: Option<CheckpointTuple>) -> Self {
        let head = latest.map(Head::from);
        Self { thread_id, head }
    }

    /// The state in the latest checkpoint, `None` when there is none.
    pub fn state<S: DeserializeOwned>(&self) -> Result<Option<S>> {
        self.head
            .as_ref()
            .map(|head| decode_state(&head.values))
            .transpose()
            .map_err(|error| Error::backend("decode state", error))
    }

    /// The latest checkpoint.
    pub fn head(&self) -> Option<&CheckpointId> {
        self.head.as_ref().map(|head| &head.id)
    }

    /// The step that follows the latest checkpoint; −1 where there is none.
    pub fn next_step(&self) -> i64 {
        self.head.as_ref().map_or(-1, |head| head.step + 1)
    }

    /// Saves `state` behind the latest checkpoint. After an error the head is as before, and
    /// saving again is safe.
    pub async fn save<C: Checkpointer + ?Sized, S: Serialize>(
        &mut self,
        checkpointer: &C,
        state: &S,
        metadata: CheckpointMetadata,
    ) -> Result<CheckpointId> {
        let (new, next) = self.next(state, metadata)?;
        let key = checkpointer.put(new, PutOptions::default()).await?;
        *self = next;
        Ok(key.checkpoint_id)
    }

    /// The checkpoint that holds `state` behind the latest, and what this is once it is stored: for
    /// who stores it with something else.
    pub fn next<S: Serialize>(
        &self,
        state: &S,
        metadata: CheckpointMetadata,
    ) -> Result<(NewCheckpoint, Self)> {
        let values =
            encode_state(state).map_err(|error| Error::invalid("state", error.to_string()))?;
        let parent = self.head.as_ref();
        let mut versions = parent.map_or_else(BTreeMap::new, |head| head.versions.clone());
        let old = parent.map(|head| &head.values);

        // A field that is gone gets a new version without a value.
        let gone = old.into_iter().flat_map(BTreeMap::keys);
        let mut new_versions = BTreeMap::new();
        for channel in values.keys().chain(gone) {
            if old.and_then(|old| old.get(channel)) != values.get(channel) {
                let version = Version::next(versions.get(channel));
                new_versions.insert(channel.clone(), version);
            }
        }
        versions.extend(new_versions.clone());

        let mut checkpoint = Checkpoint::after(parent.map(|head| &head.id));
        checkpoint.channel_values.clone_from(&values);
        checkpoint.channel_versions.clone_from(&versions);
        checkpoint.extra.insert(
            "updated_channels".to_owned(),
            new_versions.keys().cloned().collect(),
        );
        let head = Head {
            id: checkpoint.id.clone(),
            step: metadata.step().unwrap_or_else(|| self.next_step()),
            values,
            versions,
        };
        let new = NewCheckpoint {
            thread_id: self.thread_id.clone(),
            namespace: Namespace::root(),
            parent: parent.map(|head| head.id.clone()),
            checkpoint,
            metadata,
            new_versions,
        };
        let next = Self {
            thread_id: self.thread_id.clone(),
            head: Some(head),
        };
        Ok((new, next))
    }
}

impl From<CheckpointTuple> for Head {
    fn from(tuple: CheckpointTuple) -> Self {
        Self {
            id: tuple.checkpoint.id,
            step: tuple.metadata.step().unwrap_or(-1),
            values: tuple.checkpoint.channel_values,
            versions: tuple.checkpoint.channel_versions,
        }
    }
}

fn encode_state<S: Serialize>(state: &S) -> Result<BTreeMap<String, ChannelValue>, EncodeError> {
    let packed = rmp_serde::to_vec_named(state).map_err(EncodeError::new)?;
    // What could not be read back is not written. A text counts as a level.
    let depth = MAX_DEPTH + 1;
    let value =
        read_value_with_max_depth(&mut packed.as_slice(), depth).map_err(EncodeError::new)?;
    match value {
        Msgpack::Map(fields) if fields.iter().all(|(key, _)| key.is_str()) => {
            let mut channels = BTreeMap::new();
            for (key, value) in fields {
                let name = key.as_str().unwrap_or_default();
                if part_of(name).is_some() {
                    return Err(EncodeError::new(format!(
                        "a field must not be called {name}"
                    )));
                }
                for (index, part) in parts(value).into_iter().enumerate() {
                    let channel = if index == 0 {
                        name.to_owned()
                    } else {
                        format!("{name}{PART}{index}")
                    };
                    channels.insert(channel, encode_channel(part)?);
                }
            }
            Ok(channels)
        }
        other => Ok(BTreeMap::from([(ROOT.to_owned(), encode_channel(other)?)])),
    }
}

/// Between the name of a list and the number of one of its further parts.
const PART: char = '#';

/// A part holds a power of this many items, the last one less than this.
const RADIX: usize = 8;

/// A list in parts, the largest first, as the digits of its length: 8 parts of 8 become one of 64,
/// 8 of those one of 512. So an item is written again as often as the length has digits, and a list
/// has some seven parts a digit.
fn parts(value: Msgpack) -> Vec<Msgpack> {
    let Msgpack::Array(mut items) = value else {
        return vec![value];
    };
    let mut size = RADIX;
    while size * RADIX <= items.len() {
        size *= RADIX;
    }
    let mut parts = Vec::new();
    while size > 1 {
        while items.len() >= size {
            let rest = items.split_off(size);
            parts.push(Msgpack::Array(std::mem::replace(&mut items, rest)));
        }
        size /= RADIX;
    }
    if parts.is_empty() || !items.is_empty() {
        parts.push(Msgpack::Array(items));
    }
    parts
}

/// Joins the lists that [`CheckpointerExt::save`] and [`ThreadState`] keep in parts, among the
/// values of a checkpoint as JSON.
pub fn join_lists(mut values: BTreeMap<String, Json>) -> BTreeMap<String, Json> {
    let lists = values.iter().filter(|(_, value)| value.is_array());
    let lists: Vec<String> = lists.map(|(name, _)| name.clone()).collect();
    for list in lists {
        for part in 1.. {
            let Some(Json::Array(more)) = values.remove(&format!("{list}{PART}{part}")) else {
                break;
            };
            if let Some(Json::Array(items)) = values.get_mut(&list) {
                items.extend(more);
            }
        }
    }
    values
}

/// The list and the number of the part that `channel` names.
fn part_of(channel: &str) -> Option<(&str, usize)> {
    let (list, number) = channel.rsplit_once(PART)?;
    Some((list, number.parse().ok().filter(|number| *number > 0)?))
}

/// As LangGraph stores a value: primitives within the checkpoint, all else apart. A text with a
/// NUL character, which JSON in PostgreSQL can't hold, is stored apart too.
fn encode_channel(value: Msgpack) -> Result<ChannelValue, EncodeError> {
    let inline = match &value {
        Msgpack::Nil => Some(Json::Null),
        Msgpack::Boolean(value) => Some((*value).into()),
        Msgpack::Integer(value) => value
            .as_i64()
            .map(Json::from)
            .or(value.as_u64().map(Json::from)),
        Msgpack::F32(value) => Number::from_f64((*value).into()).map(Json::Number),
        Msgpack::F64(value) => Number::from_f64(*value).map(Json::Number),
        Msgpack::String(text) => text
            .as_str()
            .filter(|text| !text.contains('\0'))
            .map(Json::from),
        _ => None,
    };
    Ok(match inline {
        Some(json) => ChannelValue::Inline(json),
        None => ChannelValue::Stored(Value::encode(&value)?),
    })
}

fn decode_state<S: DeserializeOwned>(
    values: &BTreeMap<String, ChannelValue>,
) -> Result<S, EncodeError> {
    let mut fields = Vec::with_capacity(values.len());
    for (channel, value) in values {
        if part_of(channel).is_some_and(|(list, _)| values.contains_key(list)) {
            continue;
        }
        let mut value = decode_channel(value)?;
        if channel == ROOT && values.len() == 1 {
            return Value::encode(&value)?.decode();
        }
        if let Msgpack::Array(items) = &mut value {
            let further = (1..).map_while(|part| values.get(&format!("{channel}{PART}{part}")));
            for part in further {
                if let Msgpack::Array(more) = decode_channel(part)? {
                    items.extend(more);
                }
            }
        }
        fields.push((Msgpack::from(channel.as_str()), value));
    }
    // Through bytes: rmpv's own deserializer knows no enum variant without a value.
    Value::encode(&Msgpack::Map(fields))?.decode()
}

fn decode_channel(value: &ChannelValue) -> Result<Msgpack, EncodeError> {
    match value {
        ChannelValue::Inline(json) => rmpv::ext::to_value(json).map_err(EncodeError::new),
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => value.decode(),
    }
}
