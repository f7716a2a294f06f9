//! A storage, each of whose calls is a boundary of its process.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use async_trait::async_trait;
use yai_agentkit_core::{
    CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer,
    Conversation, ConversationId, Entity, Error, Fence, ListQuery, Message, NewCheckpoint,
    NewWrites, OwnerId, Page, PruneStrategy, PutOptions, Repository, Result, Storage, Stores,
    Thread, ThreadId, Turn, TurnId, TurnStore, UnitOfWork,
    access::ApiKey,
    checkpoint::{DeltaChannelHistory, ThreadCursor},
    storage::{Change, Cursor},
    turn::{
        Announcements, EventBatch, IdempotencyKey, LatestBatches, TurnBegin, TurnChange,
        TurnLedger, TurnStep,
    },
};

use crate::process::{OpenUnit, Process};

/// The part of the idempotency keys.
const KEYS: &str = "keys";

/// What a process may be made to do wrong, to see that a test finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Pending writes are stored without asking who owns the thread.
    WritesOfAnybody,
    /// Who takes a turn over does not raise the epoch of its thread.
    EpochNotRaised,
    /// Events of who has lost a turn are stored behind those of its new owner.
    EventsOfAnybody,
    /// The use of a key is not stored.
    KeysForgotten,
}

/// A part of a storage, as one process sees it.
pub(crate) struct Bounded<T: ?Sized> {
    part: &'static str,
    inner: Arc<T>,
    process: Process,
}

impl<T: ?Sized> Bounded<T> {
    fn part(part: &'static str, inner: Arc<T>, process: &Process) -> Arc<Self> {
        let process = process.clone();
        Arc::new(Self {
            part,
            inner,
            process,
        })
    }

    async fn cross<R>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        self.process.cross(self.part, call, work).await
    }
}

/// A storage or a unit of work, as one process sees it.
pub(crate) struct BoundedStores<P> {
    inner: P,
    process: Process,
    /// Of a unit of work.
    open: Option<OpenUnit>,
}

impl BoundedStores<Arc<dyn Storage>> {
    pub(crate) fn storage(inner: Arc<dyn Storage>, process: &Process) -> Arc<Self> {
        Arc::new(Self {
            inner,
            process: process.clone(),
            open: None,
        })
    }
}

impl<P: Deref<Target: Stores> + Send + Sync> Stores for BoundedStores<P> {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        Bounded::part("conversations", self.inner.conversations(), &self.process)
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        Bounded::part("messages", self.inner.messages(), &self.process)
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        Bounded::part("turns", self.inner.turns(), &self.process)
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        Bounded::part("turn store", self.inner.turn_store(), &self.process)
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        self.inner.turn_ledger()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        Bounded::part(KEYS, self.inner.idempotency_keys(), &self.process)
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        self.inner.api_keys()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Bounded::part("checkpoints", self.inner.checkpointer(), &self.process)
    }
}

#[async_trait]
impl Storage for BoundedStores<Arc<dyn Storage>> {
    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        let begun = async {
            Ok(Box::new(BoundedStores {
                inner: self.inner.begin().await?,
                process: self.process.clone(),
                open: Some(self.process.open_unit()),
            }) as Box<dyn UnitOfWork>)
        };
        self.process.cross("storage", "begin", begun).await
    }

    async fn ping(&self) -> Result<()> {
        let ping = self.inner.ping();
        self.process.cross("storage", "ping", ping).await
    }
}

#[async_trait]
impl UnitOfWork for BoundedStores<Box<dyn UnitOfWork>> {
    async fn commit(self: Box<Self>) -> Result<()> {
        let Self {
            inner,
            process,
            open,
        } = *self;
        let committed = async move {
            let committed = inner.commit().await;
            drop(open);
            committed
        };
        process.cross("storage", "commit", committed).await
    }
}

#[async_trait]
impl<E: Entity> Repository<E> for Bounded<dyn Repository<E>> {
    async fn get(&self, id: &E::Id) -> Result<Option<E>> {
        if self.part == KEYS && self.process.makes(Mistake::KeysForgotten) {
            return Ok(None);
        }
        self.cross("get", self.inner.get(id)).await
    }

    async fn list(&self, query: &ListQuery<E>) -> Result<Page<E, Cursor<E::Id>>> {
        self.cross("list", self.inner.list(query)).await
    }

    async fn add(&self, entity: E) -> Result<E> {
        if self.part == KEYS && self.process.makes(Mistake::KeysForgotten) {
            return Ok(entity);
        }
        self.cross("add", self.inner.add(entity)).await
    }

    async fn add_many(&self, entities: Vec<E>) -> Result<Vec<E>> {
        self.cross("add many", self.inner.add_many(entities)).await
    }

    async fn update(&self, id: &E::Id, change: Change<'_, E>) -> Result<E> {
        self.cross("update", self.inner.update(id, change)).await
    }

    async fn delete(&self, id: &E::Id) -> Result<bool> {
        self.cross("delete", self.inner.delete(id)).await
    }

    async fn exists(&self, id: &E::Id) -> Result<bool> {
        self.cross("exists", self.inner.exists(id)).await
    }

    async fn count(&self, filter: &E::Filter) -> Result<u64> {
        self.cross("count", self.inner.count(filter)).await
    }
}

#[async_trait]
impl TurnStore for Bounded<dyn TurnStore> {
    async fn begin(&self, mut begin: TurnBegin) -> Result<Turn> {
        begin.key = begin
            .key
            .filter(|_| !self.process.makes(Mistake::KeysForgotten));
        self.cross("begin", self.inner.begin(begin)).await
    }

    async fn step(&self, step: TurnStep) -> Result<()> {
        self.cross("step", self.inner.step(step)).await
    }

    async fn change(&self, change: TurnChange) -> Result<Turn> {
        self.cross("change", self.inner.change(change)).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        self.cross("take", self.inner.take(seen, owner, lease))
            .await
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        self.cross("renew", self.inner.renew(owner)).await
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        self.cross("due", self.inner.due(limit)).await
    }

    async fn append(&self, mut batch: EventBatch) -> Result<()> {
        if self.process.makes(Mistake::EventsOfAnybody) {
            while let Err(Error::Conflict(_)) = self.inner.append(batch.clone()).await {
                batch.sequence += 1;
            }
            return Ok(());
        }
        self.cross("append", self.inner.append(batch)).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let events = self.inner.events(conversation_id, turn_id, after, limit);
        self.cross("events", events).await
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.cross("latest events", self.inner.latest_events(turns))
            .await
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        self.cross("forget events", self.inner.forget_events(age))
            .await
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        self.cross("forget keys", self.inner.forget_keys(age)).await
    }

    async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        self.cross("announce", self.inner.announce(latest)).await
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        self.cross("announcements", self.inner.announcements())
            .await
    }
}

#[async_trait]
impl Checkpointer for Bounded<dyn Checkpointer> {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        self.cross("get", self.inner.get(selector)).await
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        self.cross("list", self.inner.list(query)).await
    }

    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey> {
        self.cross("put", self.inner.put(checkpoint, options)).await
    }

    async fn put_writes(&self, writes: NewWrites, mut fence: Option<Fence>) -> Result<()> {
        fence = fence.filter(|_| !self.process.makes(Mistake::WritesOfAnybody));
        self.cross("put writes", self.inner.put_writes(writes, fence))
            .await
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        if self.process.makes(Mistake::EpochNotRaised) {
            return Ok(());
        }
        self.cross("raise epoch", self.inner.raise_epoch(thread_id, epoch))
            .await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        self.cross("delete thread", self.inner.delete_thread(thread_id))
            .await
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        self.cross("delete for runs", self.inner.delete_for_runs(run_ids))
            .await
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        self.cross("copy thread", self.inner.copy_thread(source, target))
            .await
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        self.cross("prune", self.inner.prune(thread_ids, strategy))
            .await
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        let history = self.inner.delta_channel_history(selector, channels);
        self.cross("delta history", history).await
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        self.cross("threads", self.inner.threads(limit, after))
            .await
    }
}
