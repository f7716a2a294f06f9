//! A storage each of whose calls passes by somebody, who can count it, keep it waiting or have it fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use yai_agentkit_core::{
    Checkpoint, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer,
    Conversation, ConversationId, Entity, Error, Fence, ListQuery, Message, MessageId, Namespace,
    NewCheckpoint, NewWrites, PutOptions, Repository, Result, Storage, Stores, ThreadId, Turn,
    TurnId, TurnStore, UnitOfWork, Value,
    access::ApiKey,
    audit::AuditLog,
    checkpoint::{DeltaChannelHistory, PruneStrategy, Thread, ThreadCursor, ValueKey},
    conversation::ConversationSearch,
    retention::RetentionStore,
    storage::{Change, Cursor, Page},
    store::MemoryStore,
    turn::{
        Announcements, EventBatch, IdempotencyKey, LatestBatches, OwnerId, TurnBegin, TurnChange,
        TurnLedger, TurnStep,
    },
};

/// The name of the part of the idempotency keys.
const KEYS: &str = "keys";

/// What a process may be made to do wrong, to see that a test finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Pending writes are stored without asking who owns the thread.
    WritesOfAnybody,
    /// Who takes a turn over does not raise the epoch of its thread.
    EpochNotRaised,
    /// A step is stored without asking who owns the thread.
    StepsOfAnybody,
    /// Events of who has lost a turn are stored behind those of its new owner.
    EventsOfAnybody,
    /// The use of a key is not stored.
    KeysForgotten,
}

/// A call of a storage.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Of which part of the storage.
    pub part: &'static str,
    /// What it does there.
    pub name: &'static str,
    /// Whether it may change something.
    pub changes: bool,
}

/// Sees the calls of a [`Watched`] storage. A clone is the same.
pub trait Watch: Clone + Send + Sync + 'static {
    /// Lives as long as a unit of work.
    type Unit: Send + Sync + 'static;

    /// Makes a call, or has it fail.
    fn cross<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send;

    /// A unit of work begins.
    fn open_unit(&self) -> Self::Unit;

    /// Whether it wants this to go wrong.
    fn makes(&self, mistake: Mistake) -> bool {
        let _ = mistake;
        false
    }

    /// Somebody has read a checkpoint.
    fn read(&self, checkpoint: &Checkpoint) {
        let _ = checkpoint;
    }

    /// Somebody writes a checkpoint.
    fn written(&self, checkpoint: &Checkpoint) {
        let _ = checkpoint;
    }
}

/// A storage or a unit of work whose calls a [`Watch`] sees.
pub struct Watched<P, W: Watch> {
    /// What does the work.
    pub inner: P,
    /// Who sees its calls.
    pub watch: W,
    /// Of a unit of work.
    open: Option<W::Unit>,
}

impl<W: Watch> Watched<Arc<dyn Storage>, W> {
    /// `inner`, as `watch` lets it be seen.
    pub fn new(inner: Arc<dyn Storage>, watch: W) -> Self {
        Self {
            inner,
            watch,
            open: None,
        }
    }
}

impl<W: Watch> Clone for Watched<Arc<dyn Storage>, W> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.inner), self.watch.clone())
    }
}

impl<P: Deref<Target: Stores> + Send + Sync, W: Watch> Watched<P, W> {
    fn part<T: ?Sized>(&self, name: &'static str, inner: Arc<T>) -> Arc<Part<T, W>> {
        let watch = self.watch.clone();
        Arc::new(Part { name, inner, watch })
    }
}

impl<P: Deref<Target: Stores> + Send + Sync, W: Watch> Stores for Watched<P, W> {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.part("conversations", self.inner.conversations())
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.part("messages", self.inner.messages())
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.part("turns", self.inner.turns())
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        self.part("turn store", self.inner.turn_store())
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        self.inner.turn_ledger()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.part(KEYS, self.inner.idempotency_keys())
    }

    fn audit(&self) -> Arc<dyn AuditLog> {
        self.inner.audit()
    }

    fn memory_store(&self) -> Arc<dyn MemoryStore> {
        self.inner.memory_store()
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        self.part("API keys", self.inner.api_keys())
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        self.part("checkpoints", self.inner.checkpointer())
    }
}

const fn of_storage(name: &'static str) -> Call {
    Call {
        part: "storage",
        name,
        changes: true,
    }
}

#[async_trait]
impl<W: Watch> Storage for Watched<Arc<dyn Storage>, W> {
    fn search(&self) -> Arc<dyn ConversationSearch> {
        self.inner.search()
    }

    fn retention(&self) -> Arc<dyn RetentionStore> {
        self.inner.retention()
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        let begun = async {
            Ok(Box::new(Watched {
                inner: self.inner.begin().await?,
                watch: self.watch.clone(),
                open: Some(self.watch.open_unit()),
            }) as Box<dyn UnitOfWork>)
        };
        self.watch.cross(of_storage("begin"), begun).await
    }

    async fn ping(&self) -> Result<()> {
        let ping = self.inner.ping();
        self.watch.cross(of_storage("ping"), ping).await
    }
}

#[async_trait]
impl<W: Watch> UnitOfWork for Watched<Box<dyn UnitOfWork>, W> {
    async fn commit(self: Box<Self>) -> Result<()> {
        let Self { inner, watch, open } = *self;
        let committed = async move {
            let committed = inner.commit().await;
            drop(open);
            committed
        };
        watch.cross(of_storage("commit"), committed).await
    }
}

/// A part of a storage.
struct Part<T: ?Sized, W> {
    name: &'static str,
    inner: Arc<T>,
    watch: W,
}

impl<T: ?Sized, W: Watch> Part<T, W> {
    async fn reads<R: Send>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        self.cross(name, false, work).await
    }

    async fn changes<R: Send>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        self.cross(name, true, work).await
    }

    async fn cross<R: Send>(
        &self,
        name: &'static str,
        changes: bool,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        let call = Call {
            part: self.name,
            name,
            changes,
        };
        self.watch.cross(call, work).await
    }
}

#[async_trait]
impl<E: Entity, W: Watch> Repository<E> for Part<dyn Repository<E>, W> {
    async fn get(&self, id: &E::Id) -> Result<Option<E>> {
        if self.name == KEYS && self.watch.makes(Mistake::KeysForgotten) {
            return Ok(None);
        }
        self.reads("get", self.inner.get(id)).await
    }

    async fn list(&self, query: &ListQuery<E>) -> Result<Page<E, Cursor<E::Id>>> {
        self.reads("list", self.inner.list(query)).await
    }

    async fn add(&self, entity: E) -> Result<E> {
        if self.name == KEYS && self.watch.makes(Mistake::KeysForgotten) {
            return Ok(entity);
        }
        self.changes("add", self.inner.add(entity)).await
    }

    async fn add_many(&self, entities: Vec<E>) -> Result<Vec<E>> {
        self.changes("add many", self.inner.add_many(entities))
            .await
    }

    async fn update(&self, id: &E::Id, change: Change<'_, E>) -> Result<E> {
        self.changes("update", self.inner.update(id, change)).await
    }

    async fn delete(&self, id: &E::Id) -> Result<bool> {
        self.changes("delete", self.inner.delete(id)).await
    }

    async fn exists(&self, id: &E::Id) -> Result<bool> {
        self.reads("exists", self.inner.exists(id)).await
    }

    async fn count(&self, filter: &E::Filter) -> Result<u64> {
        self.reads("count", self.inner.count(filter)).await
    }
}

#[async_trait]
impl<W: Watch> TurnStore for Part<dyn TurnStore, W> {
    async fn begin(&self, mut begin: TurnBegin) -> Result<Turn> {
        self.watch.written(&begin.checkpoint.checkpoint);
        begin.key = begin
            .key
            .filter(|_| !self.watch.makes(Mistake::KeysForgotten));
        self.changes("begin", self.inner.begin(begin)).await
    }

    async fn choose(&self, conversation: ConversationId, last: Option<MessageId>) -> Result<()> {
        let chosen = self.inner.choose(conversation, last);
        self.changes("choose", chosen).await
    }

    async fn step(&self, mut step: TurnStep) -> Result<()> {
        self.watch.written(&step.checkpoint.checkpoint);
        if self.watch.makes(Mistake::StepsOfAnybody) {
            while let Err(error) = self.inner.step(step.clone()).await {
                match error {
                    Error::Fenced { epoch, .. } => step.epoch = epoch,
                    // Whoever has the turn has stored events of that number.
                    Error::Conflict(_) => step.events.sequence += 1,
                    error => return Err(error),
                }
            }
            return Ok(());
        }
        self.changes("step", self.inner.step(step)).await
    }

    async fn change(&self, change: TurnChange) -> Result<Turn> {
        if let Some((new, _)) = &change.checkpoint {
            self.watch.written(&new.checkpoint);
        }
        self.changes("change", self.inner.change(change)).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        self.changes("take", self.inner.take(seen, owner, lease))
            .await
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        self.changes("renew", self.inner.renew(owner)).await
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        self.reads("due", self.inner.due(limit)).await
    }

    async fn running(&self, owner: Option<&str>) -> Result<u64> {
        self.reads("running", self.inner.running(owner)).await
    }

    async fn append(&self, mut batch: EventBatch) -> Result<()> {
        if self.watch.makes(Mistake::EventsOfAnybody) {
            while let Err(Error::Conflict(_)) = self.inner.append(batch.clone()).await {
                batch.sequence += 1;
            }
            return Ok(());
        }
        self.changes("append", self.inner.append(batch)).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let events = self.inner.events(conversation_id, turn_id, after, limit);
        self.reads("events", events).await
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.reads("latest events", self.inner.latest_events(turns))
            .await
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        self.changes("forget events", self.inner.forget_events(age))
            .await
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        self.changes("forget keys", self.inner.forget_keys(age))
            .await
    }

    async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        self.changes("announce", self.inner.announce(latest)).await
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        self.reads("announcements", self.inner.announcements())
            .await
    }
}

#[async_trait]
impl<W: Watch> Checkpointer for Part<dyn Checkpointer, W> {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        let found = self.reads("get", self.inner.get(selector)).await?;
        if let Some(found) = &found {
            self.watch.read(&found.checkpoint);
        }
        Ok(found)
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        self.reads("list", self.inner.list(query)).await
    }

    async fn values(
        &self,
        thread_id: &ThreadId,
        namespace: &Namespace,
        keys: &BTreeSet<ValueKey>,
    ) -> Result<BTreeMap<ValueKey, Value>> {
        let values = self.inner.values(thread_id, namespace, keys);
        self.reads("values", values).await
    }

    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey> {
        self.watch.written(&checkpoint.checkpoint);
        self.changes("put", self.inner.put(checkpoint, options))
            .await
    }

    async fn put_writes(&self, writes: NewWrites, mut fence: Option<Fence>) -> Result<()> {
        fence = fence.filter(|_| !self.watch.makes(Mistake::WritesOfAnybody));
        self.changes("put writes", self.inner.put_writes(writes, fence))
            .await
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        if self.watch.makes(Mistake::EpochNotRaised) {
            return Ok(());
        }
        self.changes("raise epoch", self.inner.raise_epoch(thread_id, epoch))
            .await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        self.changes("delete thread", self.inner.delete_thread(thread_id))
            .await
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        self.changes("delete for runs", self.inner.delete_for_runs(run_ids))
            .await
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        self.changes("copy thread", self.inner.copy_thread(source, target))
            .await
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        self.changes("prune", self.inner.prune(thread_ids, strategy))
            .await
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        let history = self.inner.delta_channel_history(selector, channels);
        self.reads("delta history", history).await
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        self.reads("threads", self.inner.threads(limit, after))
            .await
    }
}
