use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value as Json};

use crate::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointTuple, Error, Fence, Namespace, PutOptions,
    Result, ThreadId, Value,
    checkpoint::{CheckpointMetadata, PendingWrite, Version},
    storage::Page,
    validate,
};

/// The place of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointKey {
    /// The thread.
    pub thread_id: ThreadId,
    /// The graph within the thread.
    pub namespace: Namespace,
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
}

impl CheckpointKey {
    /// Refuses what no back end can store: NUL characters, an empty checkpoint id.
    pub fn validate(&self) -> Result<()> {
        self.thread_id.validate()?;
        validate::text("checkpoint_ns", self.namespace.as_str())?;
        validate::text("checkpoint_id", self.checkpoint_id.as_str())?;
        if self.checkpoint_id.as_str().is_empty() {
            return Err(Error::invalid("checkpoint_id", "must not be empty"));
        }
        validate::key(&self.parts())
    }

    fn parts(&self) -> [(&'static str, &str); 3] {
        [
            ("thread_id", self.thread_id.as_str()),
            ("checkpoint_ns", self.namespace.as_str()),
            ("checkpoint_id", self.checkpoint_id.as_str()),
        ]
    }
}

/// Which checkpoint to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSelector {
    /// The thread.
    pub thread_id: ThreadId,
    /// The graph within the thread.
    pub namespace: Namespace,
    /// The checkpoint; `None` is the latest.
    pub checkpoint_id: Option<CheckpointId>,
    /// What to read of it.
    pub values: Values,
}

/// What to read of a checkpoint. The versions of its channels always come, and a back end does not
/// read what it leaves out, however large it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// All.
    #[default]
    All,
    /// Of the values that are stored apart only those of these channels.
    Of(BTreeSet<String>),
    /// No [`Checkpoint::channel_values`], pending writes and sends: for a list to choose from.
    Nothing,
}

impl CheckpointSelector {
    /// The latest checkpoint of the root graph of `thread_id`.
    pub fn latest(thread_id: impl Into<ThreadId>) -> Self {
        Self {
            thread_id: thread_id.into(),
            namespace: Namespace::root(),
            checkpoint_id: None,
            values: Values::All,
        }
    }
}

impl From<CheckpointKey> for CheckpointSelector {
    fn from(key: CheckpointKey) -> Self {
        Self {
            thread_id: key.thread_id,
            namespace: key.namespace,
            checkpoint_id: Some(key.checkpoint_id),
            values: Values::All,
        }
    }
}

/// Which checkpoints [`Checkpointer::list`] returns; the default is all of all threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckpointQuery {
    /// Only those of this thread.
    pub thread_id: Option<ThreadId>,
    /// Only those of this graph within the thread.
    pub namespace: Option<Namespace>,
    /// Only the one with this id.
    pub checkpoint_id: Option<CheckpointId>,
    /// Only those whose metadata contain this, see [`CheckpointMetadata::contains`].
    pub metadata: Map<String, Json>,
    /// Only those that sort before this one.
    pub before: Option<CheckpointId>,
    /// How many at most; `None` is all.
    pub limit: Option<u64>,
    /// What to read of each.
    pub values: Values,
}

impl CheckpointQuery {
    /// All checkpoints of `thread_id`, in every namespace.
    pub fn of(thread_id: impl Into<ThreadId>) -> Self {
        Self {
            thread_id: Some(thread_id.into()),
            ..Self::default()
        }
    }
}

/// The place of a stored value in its thread and graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueKey {
    /// The channel.
    pub channel: String,
    /// The version, as text.
    pub version: String,
}

/// A checkpoint to store.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCheckpoint {
    /// The thread.
    pub thread_id: ThreadId,
    /// The graph within the thread.
    pub namespace: Namespace,
    /// The checkpoint that it follows.
    pub parent: Option<CheckpointId>,
    /// The state.
    pub checkpoint: Checkpoint,
    /// What is known about it.
    pub metadata: CheckpointMetadata,
    /// The channels whose value is new in this checkpoint: only their values are written. One that the
    /// checkpoint has no version of is read by [`Checkpointer::values`], and goes with its thread.
    pub new_versions: BTreeMap<String, Version>,
}

impl NewCheckpoint {
    /// The place that it takes.
    pub fn key(&self) -> CheckpointKey {
        CheckpointKey {
            thread_id: self.thread_id.clone(),
            namespace: self.namespace.clone(),
            checkpoint_id: self.checkpoint.id.clone(),
        }
    }

    /// Refuses what no back end can store: NUL characters, an empty checkpoint id, a version whose
    /// value would not be found again.
    pub fn validate(&self) -> Result<()> {
        self.key().validate()?;
        if let Some(parent) = &self.parent {
            validate::text("parent", parent.as_str())?;
        }
        let versions = self.checkpoint.channel_versions.iter();
        for (channel, version) in versions.chain(&self.new_versions) {
            validate::text("channel", channel)?;
            version.validate("version")?;
            validate::key(&[
                ("thread_id", self.thread_id.as_str()),
                ("checkpoint_ns", self.namespace.as_str()),
                ("channel", channel),
                ("version", &version.to_string()),
            ])?;
        }
        for (channel, value) in &self.checkpoint.channel_values {
            validate::text("channel", channel)?;
            match value {
                ChannelValue::Inline(json) => validate::json("channel_values", json)?,
                ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => {
                    validate::text("type", value.type_tag())?;
                }
            }
        }
        for (node, seen) in &self.checkpoint.versions_seen {
            validate::text("versions_seen", node)?;
            for (channel, version) in seen {
                validate::text("versions_seen", channel)?;
                version.validate("versions_seen")?;
            }
        }
        validate::text("ts", &self.checkpoint.ts)?;
        for (key, value) in self.checkpoint.extra.iter() {
            validate::text("checkpoint", key)?;
            validate::json("checkpoint", value)?;
        }
        for (key, value) in &self.metadata.0 {
            validate::text("metadata", key)?;
            validate::json("metadata", value)?;
        }
        Ok(())
    }
}

/// One write of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelWrite {
    /// The channel written to.
    pub channel: String,
    /// What was written.
    pub value: Value,
}

/// The writes of one task, to store as pending writes of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct NewWrites {
    /// The checkpoint from which the task started. It may be stored later than its writes.
    pub key: CheckpointKey,
    /// The task.
    pub task_id: String,
    /// Its place in the graph.
    pub task_path: String,
    /// What it wrote, in order.
    pub writes: Vec<ChannelWrite>,
}

impl NewWrites {
    /// Whether these writes replace earlier ones of the same task and index: when every channel is
    /// special. Otherwise the first write stays.
    pub fn replaces(&self) -> bool {
        self.writes
            .iter()
            .all(|write| special_write_index(&write.channel).is_some())
    }

    /// The rows to store, with the index of each. Where one call writes a special channel twice,
    /// the later write counts if the writes replace, the earlier one if not.
    pub fn rows(&self) -> Vec<(i32, &ChannelWrite)> {
        let replaces = self.replaces();
        let mut rows = BTreeMap::new();
        for (position, write) in self.writes.iter().enumerate() {
            let position = i32::try_from(position).unwrap_or(i32::MAX);
            let index = special_write_index(&write.channel).unwrap_or(position);
            if replaces {
                rows.insert(index, write);
            } else {
                rows.entry(index).or_insert(write);
            }
        }
        rows.into_iter().collect()
    }

    /// Refuses what no back end can store: NUL characters, an empty checkpoint id.
    pub fn validate(&self) -> Result<()> {
        self.key.validate()?;
        validate::text("task_id", &self.task_id)?;
        let [thread, namespace, checkpoint] = self.key.parts();
        validate::key(&[thread, namespace, checkpoint, ("task_id", &self.task_id)])?;
        validate::text("task_path", &self.task_path)?;
        for write in &self.writes {
            validate::text("channel", &write.channel)?;
            validate::text("type", write.value.type_tag())?;
        }
        Ok(())
    }
}

/// The index under which LangGraph stores a write to a special channel (`WRITES_IDX_MAP`).
pub fn special_write_index(channel: &str) -> Option<i32> {
    match channel {
        "__error__" => Some(-1),
        "__scheduled__" => Some(-2),
        "__interrupt__" => Some(-3),
        "__resume__" => Some(-4),
        _ => None,
    }
}

/// What [`Checkpointer::prune`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneStrategy {
    /// The latest checkpoint of every namespace, with all that it needs to read back unchanged:
    /// its values, its pending writes, the ancestors from which its delta channels are replayed,
    /// and for a checkpoint before format 4 the parent, for its sends: what that one needs of its own
    /// parent may go. The namespace of a finished subgraph call goes with the root checkpoint from
    /// which the call started.
    KeepLatest,
    /// Nothing.
    Delete,
}

/// What one channel received between its nearest stored value and a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeltaChannelHistory {
    /// The nearest stored value among the ancestors; `None` where there is none up to the root.
    pub seed: Option<ChannelValue>,
    /// The writes since then, oldest first, and within one checkpoint by task path, task id and
    /// index. The checkpoint's own pending writes are not among them.
    pub writes: Vec<PendingWrite>,
}

/// A thread: one execution history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thread {
    /// Its id.
    pub id: ThreadId,
    /// The thread that it was copied from.
    pub parent: Option<ThreadId>,
    /// When its last checkpoint was stored, by the storage's clock; of a thread that has only
    /// pending writes, when the first of them was.
    pub updated_at: DateTime<Utc>,
}

impl Thread {
    /// A thread, for a back end to return.
    pub fn new(id: ThreadId, parent: Option<ThreadId>, updated_at: DateTime<Utc>) -> Self {
        Self {
            id,
            parent,
            updated_at,
        }
    }
}

/// Where a page of threads starts: behind this thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadCursor {
    /// Its `updated_at` on the page before.
    pub updated_at: DateTime<Utc>,
    /// Its id.
    pub id: ThreadId,
}

impl From<&Thread> for ThreadCursor {
    fn from(thread: &Thread) -> Self {
        Self {
            updated_at: thread.updated_at,
            id: thread.id.clone(),
        }
    }
}

impl fmt::Display for ThreadCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.updated_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        write!(f, "{time},{}", self.id)
    }
}

/// A time and a thread, whose id may be anything.
impl FromStr for ThreadCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(',');
        let place = parts.and_then(|(time, id)| Some((time.parse().ok()?, id)));
        let (updated_at, id) = place.ok_or_else(|| {
            Error::invalid("cursor", "must be a time, a comma and the id of a thread")
        })?;
        Ok(Self {
            updated_at,
            id: id.into(),
        })
    }
}

/// LangGraph's checkpoint protocol, complete, and a list of the threads.
///
/// Every call is one transaction: it happens whole or not at all, whoever else writes. Every write
/// may be repeated: a second identical call changes nothing but the thread's `updated_at`. A
/// failure of the storage is an error, never an empty answer. Threads don't affect each other.
///
/// The simple face (latest state by key, save, keys, delete) is
/// [`CheckpointerExt`](crate::checkpoint::CheckpointerExt).
///
/// ```
/// use yai_agentkit_core::{
///     CheckpointSelector, Error, Fence, PutOptions, Stores, ThreadState,
///     checkpoint::{CheckpointMetadata, CheckpointSource}, memory::MemoryStorage,
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let checkpointer = MemoryStorage::default().checkpointer();
/// let metadata = |step| CheckpointMetadata::new(CheckpointSource::Loop, step);
/// let thread = ThreadState::new("thread".into(), None);
/// let (first, thread) = thread.next(&"asked", metadata(0))?;
/// checkpointer.put(first, PutOptions::default()).await?;
///
/// // Who takes the thread over raises its epoch: who had it before is refused.
/// checkpointer.raise_epoch(&"thread".into(), 2).await?;
/// let (next, _) = thread.next(&"answered", metadata(1))?;
/// let late = checkpointer.put(next.clone(), Fence::Hold(1).into()).await;
/// assert!(matches!(late, Err(Error::Fenced { epoch: 2, .. })));
/// checkpointer.put(next, Fence::Hold(2).into()).await?;
///
/// let latest = checkpointer.get(&CheckpointSelector::latest("thread")).await?;
/// assert_eq!(latest.and_then(|latest| latest.metadata.step()), Some(1));
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Checkpointer: Send + Sync {
    /// The checkpoint that `selector` names, `None` when there is none.
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>>;

    /// The checkpoints that `query` takes, by descending id.
    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>>;

    /// The stored values at these places of a thread, as far as there are any.
    async fn values(
        &self,
        thread_id: &ThreadId,
        namespace: &Namespace,
        keys: &BTreeSet<ValueKey>,
    ) -> Result<BTreeMap<ValueKey, Value>>;

    /// Stores a checkpoint and the values of its new versions, if the thread admits what `options`
    /// ask of it. One that is stored already gets the new state and metadata and keeps its parent;
    /// a stored value of a version stays.
    ///
    /// [`Error::Fenced`] where the fence is refused, [`Error::Conflict`] of the latest checkpoint
    /// where that is not the parent; then nothing is stored. A fence costs no further round trip.
    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey>;

    /// Stores what a task wrote, if the thread admits the `fence`; else [`Error::Fenced`]. It
    /// replaces only where [`NewWrites::replaces`], else the first write stays. No writes is no
    /// call.
    async fn put_writes(&self, writes: NewWrites, fence: Option<Fence>) -> Result<()>;

    /// Raises the epoch of a thread without writing to it: from now on older holders are refused,
    /// and what is read later is what they have left. A thread that does not exist, or has this
    /// epoch or a greater one, is [`Error::Fenced`].
    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()>;

    /// Deletes everything of a thread. One that does not exist is no error. No write that holds a
    /// [`Fence`] brings it back; one without begins it anew.
    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()>;

    /// Deletes the checkpoints whose metadata name one of the runs, with their pending writes and
    /// the values that no other checkpoint uses. An ancestor that a kept checkpoint needs to read
    /// back its delta channels or its sends stays. A thread left without checkpoints is deleted,
    /// unless it was raised: who owns it goes on.
    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()>;

    /// Copies every checkpoint, value and pending write of `source` to `target`, whose
    /// [`Thread::parent`] becomes `source`. Of a source without checkpoints nothing is copied, and
    /// no target made. A target that exists is [`Error::Conflict`].
    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()>;

    /// Deletes of each thread what `strategy` does not keep. What is kept reads back as before,
    /// save that a checkpoint whose parent is gone has none, and none of its sends.
    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()>;

    /// For each of `channels` what it received up to the checkpoint, along its line of ancestors.
    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>>;

    /// One page of the threads, the last written first. A page costs the same at any depth.
    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>>;
}
