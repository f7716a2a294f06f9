//! What the cases are written with.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use uuid::Uuid;
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector,
    CheckpointTuple, Checkpointer, Conversation, Entity, Error, Fence, Namespace, NewCheckpoint,
    NewWrites, PutOptions, Repository, Result, Storage, ThreadId, Value,
    checkpoint::{
        ChannelWrite, CheckpointMetadata, CheckpointSource, DeltaChannelHistory, PendingWrite,
        Thread, Values, Version,
    },
    conversation::Part,
};

/// Text that a careless query, encoding or collation breaks.
pub(super) const AWKWARD: &str = "naïve 漢字 🦀👩‍👩‍👧 e\u{301} ' \" \\ % _ $1 ? -- \u{ffff}\r\n\t";

/// A thread that no other case knows, and the calls that cases make on it.
#[derive(Clone)]
pub(super) struct TestThread {
    pub(super) checkpointer: Arc<dyn Checkpointer>,
    pub(super) id: ThreadId,
    pub(super) namespace: Namespace,
    /// What its writes ask.
    pub(super) options: PutOptions,
}

impl TestThread {
    pub(super) fn new(storage: &Arc<dyn Storage>) -> Self {
        Self::named(storage, &fresh())
    }

    pub(super) fn named(storage: &Arc<dyn Storage>, id: &str) -> Self {
        Self {
            checkpointer: storage.checkpointer(),
            id: id.into(),
            namespace: Namespace::root(),
            options: PutOptions::default(),
        }
    }

    /// The same, by writes that ask `fence`.
    pub(super) fn fenced(&self, fence: Fence) -> Self {
        Self {
            options: self.options.fenced(fence),
            ..self.clone()
        }
    }

    /// The same thread, another graph.
    pub(super) fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            ..self.clone()
        }
    }

    /// The same graph in another thread.
    pub(super) fn called(&self, id: impl Into<ThreadId>) -> Self {
        Self {
            id: id.into(),
            ..self.clone()
        }
    }

    pub(super) fn key(&self, id: &CheckpointId) -> CheckpointKey {
        CheckpointKey {
            thread_id: self.id.clone(),
            namespace: self.namespace.clone(),
            checkpoint_id: id.clone(),
        }
    }

    pub(super) fn selector(&self, id: Option<&CheckpointId>) -> CheckpointSelector {
        CheckpointSelector {
            thread_id: self.id.clone(),
            namespace: self.namespace.clone(),
            checkpoint_id: id.cloned(),
            values: Values::All,
        }
    }

    /// An empty checkpoint that follows `parent`.
    pub(super) fn draft(&self, parent: Option<&CheckpointId>) -> NewCheckpoint {
        NewCheckpoint {
            thread_id: self.id.clone(),
            namespace: self.namespace.clone(),
            parent: parent.cloned(),
            checkpoint: Checkpoint::after(parent),
            metadata: CheckpointMetadata::new(CheckpointSource::Loop, 0),
            new_versions: BTreeMap::new(),
        }
    }

    pub(super) async fn put(&self, new: &NewCheckpoint) -> CheckpointId {
        let key = self.try_put(new).await.unwrap();
        assert_eq!(key, new.key());
        key.checkpoint_id
    }

    pub(super) async fn try_put(&self, new: &NewCheckpoint) -> Result<CheckpointKey> {
        self.checkpointer.put(new.clone(), self.options).await
    }

    /// Puts `count` checkpoints, each the parent of the next, with a value of its own each.
    pub(super) async fn put_chain(&self, count: i64) -> Vec<NewCheckpoint> {
        let mut chain: Vec<NewCheckpoint> = Vec::new();
        for step in 1..=count {
            let parent = chain.last().map(|parent| parent.checkpoint.id.clone());
            let draft = self
                .draft(parent.as_ref())
                .value("step", version(step), stored(&vec![step]))
                .metadata("step", step);
            self.put(&draft).await;
            chain.push(draft);
        }
        chain
    }

    pub(super) async fn write(&self, id: &CheckpointId, task: &str, writes: &[(&str, &str)]) {
        self.write_at(id, task, "", writes).await;
    }

    pub(super) async fn write_at(
        &self,
        id: &CheckpointId,
        task: &str,
        path: &str,
        writes: &[(&str, &str)],
    ) {
        let writes = self.writes(id, task, path, writes);
        let written = self.checkpointer.put_writes(writes, self.options.fence);
        written.await.unwrap();
    }

    pub(super) fn writes(
        &self,
        id: &CheckpointId,
        task: &str,
        path: &str,
        writes: &[(&str, &str)],
    ) -> NewWrites {
        NewWrites {
            key: self.key(id),
            task_id: task.to_owned(),
            task_path: path.to_owned(),
            writes: writes
                .iter()
                .map(|(channel, text)| ChannelWrite {
                    channel: (*channel).to_owned(),
                    value: packed(text),
                })
                .collect(),
        }
    }

    pub(super) async fn copy_to(&self, target: &ThreadId) -> Result<()> {
        self.checkpointer.copy_thread(&self.id, target).await
    }

    pub(super) async fn find(&self, id: Option<&CheckpointId>) -> Option<CheckpointTuple> {
        self.checkpointer.get(&self.selector(id)).await.unwrap()
    }

    pub(super) async fn get(&self, id: &CheckpointId) -> CheckpointTuple {
        let found = self.find(Some(id)).await;
        found.unwrap_or_else(|| panic!("{id} of {} is missing", self.id))
    }

    pub(super) async fn latest(&self) -> Option<CheckpointId> {
        let tuple = self.find(None).await?;
        assert_eq!(tuple.key.checkpoint_id, tuple.checkpoint.id);
        Some(tuple.checkpoint.id)
    }

    /// All checkpoints of the thread, in every namespace, newest first.
    pub(super) async fn list(&self) -> Vec<CheckpointTuple> {
        let query = CheckpointQuery::of(self.id.clone());
        self.checkpointer.list(&query).await.unwrap()
    }

    /// The ids of the checkpoints of this graph, newest first.
    pub(super) async fn ids(&self) -> Vec<CheckpointId> {
        let query = CheckpointQuery {
            namespace: Some(self.namespace.clone()),
            ..CheckpointQuery::of(self.id.clone())
        };
        let tuples = self.checkpointer.list(&query).await.unwrap();
        tuples
            .into_iter()
            .map(|tuple| tuple.checkpoint.id)
            .collect()
    }

    /// The texts that were written to a checkpoint, in order.
    pub(super) async fn texts(&self, id: &CheckpointId) -> Vec<String> {
        let writes = self.get(id).await.pending_writes;
        writes.iter().map(text_of).collect()
    }

    pub(super) async fn delta_history(
        &self,
        channel: &str,
        id: Option<&CheckpointId>,
    ) -> DeltaChannelHistory {
        let channels = [channel.to_owned()];
        let histories = self
            .checkpointer
            .delta_channel_history(&self.selector(id), &channels)
            .await
            .unwrap();
        assert!(histories.keys().eq(&channels), "{histories:?}");
        histories.into_values().next().unwrap_or_default()
    }

    /// What reads back for `channel` at `version`, seen through a checkpoint that only refers to
    /// it.
    pub(super) async fn stored_value(
        &self,
        channel: &str,
        version: Version,
    ) -> Option<ChannelValue> {
        let id = self
            .put(&self.draft(None).unchanged(channel, version))
            .await;
        let mut values = self.get(&id).await.checkpoint.channel_values;
        values.remove(channel)
    }
}

/// Fills in a checkpoint.
pub(super) trait Draft: Sized {
    /// A channel with a new value.
    fn value(self, channel: &str, version: Version, value: ChannelValue) -> Self;

    /// A channel whose value, if it has one, an older checkpoint has stored.
    fn unchanged(self, channel: &str, version: Version) -> Self;

    fn metadata(self, field: &str, value: impl Into<Json>) -> Self;
}

impl Draft for NewCheckpoint {
    fn value(mut self, channel: &str, version: Version, value: ChannelValue) -> Self {
        let values = &mut self.checkpoint.channel_values;
        values.insert(channel.to_owned(), value);
        self.new_versions
            .insert(channel.to_owned(), version.clone());
        self.unchanged(channel, version)
    }

    fn unchanged(mut self, channel: &str, version: Version) -> Self {
        let versions = &mut self.checkpoint.channel_versions;
        versions.insert(channel.to_owned(), version);
        self
    }

    fn metadata(mut self, field: &str, value: impl Into<Json>) -> Self {
        self.metadata = self.metadata.with(field, value);
        self
    }
}

/// Puts a chain of checkpoints with a channel `delta` that has these values, and writes to the
/// channel after each the text of the checkpoint's number.
pub(super) async fn put_delta_chain(
    thread: &TestThread,
    values: &[Option<ChannelValue>],
) -> Vec<NewCheckpoint> {
    let mut chain: Vec<NewCheckpoint> = Vec::new();
    let mut updates = 0;
    for (number, value) in (1..).zip(values) {
        let parent = chain.last().map(|parent| parent.checkpoint.id.clone());
        let mut draft = thread.draft(parent.as_ref());
        // Versions of their own, for one thread may have several chains.
        let version = Version::Text(format!("{number:032}.{}", fresh()));
        match value {
            Some(value) => {
                updates = 0;
                draft = draft.value("delta", version, value.clone());
            }
            None => {
                updates += 1;
                let counters = json!({"delta": [updates, updates]});
                draft = draft
                    .unchanged("delta", version)
                    .metadata("counters_since_delta_snapshot", counters);
            }
        }
        let id = thread.put(&draft).await;
        let text = (number - 1).to_string();
        thread.write(&id, "task", &[("delta", &text)]).await;
        chain.push(draft);
    }
    chain
}

/// A checkpoint that was put with all its values, as it reads back.
pub(super) fn tuple_of(new: &NewCheckpoint) -> CheckpointTuple {
    CheckpointTuple {
        key: new.key(),
        checkpoint: new.checkpoint.clone(),
        metadata: new.metadata.clone(),
        parent: new.parent.clone(),
        pending_writes: Vec::new(),
        pending_sends: Vec::new(),
    }
}

pub(super) fn fresh() -> String {
    Uuid::new_v4().to_string()
}

/// `count` checkpoint ids, ascending.
pub(super) fn ascending_ids(count: usize) -> Vec<CheckpointId> {
    let mut ids: Vec<CheckpointId> = Vec::with_capacity(count);
    for _ in 0..count {
        ids.push(CheckpointId::after(ids.last()));
    }
    ids
}

pub(super) fn version(count: i64) -> Version {
    Version::Text(format!("{count:032}.0000000000000000"))
}

pub(super) fn packed(text: &str) -> Value {
    Value::encode(text).unwrap()
}

pub(super) fn stored<T: serde::Serialize>(value: &T) -> ChannelValue {
    ChannelValue::Stored(Value::encode(value).unwrap())
}

pub(super) fn text_of(write: &PendingWrite) -> String {
    write.value.decode().unwrap()
}

/// The threads from the last written one to all of `ids`.
pub(super) async fn listed_until(
    checkpointer: &Arc<dyn Checkpointer>,
    ids: &[&ThreadId],
) -> Vec<Thread> {
    let mut listed: Vec<Thread> = Vec::new();
    let mut cursor = None;
    loop {
        let page = checkpointer.threads(100, cursor.as_ref()).await;
        let page = page.unwrap();
        listed.extend(page.items);
        let is_listed = |id: &&ThreadId| listed.iter().any(|thread| thread.id == **id);
        if ids.iter().all(is_listed) {
            return listed;
        }
        let goes_on = page.next.is_some() && listed.len() < 100_000;
        assert!(goes_on, "not all of {ids:?} are listed");
        cursor = page.next;
    }
}

pub(super) async fn add_conversation(storage: &Arc<dyn Storage>) -> Conversation {
    let conversation = Conversation::titled("A conversation");
    storage.conversations().add(conversation).await.unwrap()
}

/// Makes `row` of the row with its id, whatever is stored.
pub(super) async fn replace<E: Entity>(rows: &dyn Repository<E>, row: &E) -> Result<E> {
    let whole = |stored: &mut E| {
        stored.clone_from(row);
        Ok(())
    };
    rows.update(&row.id(), &whole).await
}

/// Lets the clocks move on, where the order of two writes in time is what matters.
pub(super) async fn moment() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Runs all at once, each in a task of its own, and returns what came of them, in order.
pub(super) async fn all_at_once<F>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut outputs = Vec::with_capacity(tasks.len());
    for task in tasks {
        outputs.push(task.await.expect("a task panicked"));
    }
    outputs
}

#[track_caller]
pub(super) fn assert_not_found<T: Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
}

#[track_caller]
pub(super) fn assert_conflict<T: Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Conflict(_))), "{result:?}");
}

/// Refused as [`Error::InvalidInput`] of `expected`.
#[track_caller]
pub(super) fn assert_invalid<T: Debug>(result: Result<T>, expected: &str) {
    match result {
        Err(Error::InvalidInput { field, .. }) => assert_eq!(field, expected),
        other => panic!("{other:?} instead of a refused {expected}"),
    }
}

#[track_caller]
pub(super) fn assert_fenced<T: Debug>(result: Result<T>, expected: u64) {
    match result {
        Err(Error::Fenced { epoch, .. }) => assert_eq!(epoch, expected),
        other => panic!("{other:?}"),
    }
}

/// A picture of so many bytes in base64.
pub(super) fn picture(bytes: usize) -> Part {
    serde_json::from_value(json!({"type": "image", "source": {
        "type": "data", "media_type": "image/png", "data": "iVBORw0K".repeat(bytes / 8),
    }}))
    .unwrap()
}
