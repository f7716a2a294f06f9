//! A storage, each of whose calls is a boundary of its process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use yai_agentkit_core::{
    Announcements, Change, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple,
    Checkpointer, Conversation, ConversationId, Cursor, DeltaChannelHistory, Entity, Error,
    EventBatch, Fence, IdempotencyKey, LatestBatches, Leases, ListQuery, Message, NewCheckpoint,
    NewWrites, OwnerId, Page, PruneStrategy, PutOptions, Repository, Result, Storage, Thread,
    ThreadCursor, ThreadId, Turn, TurnChange, TurnEvents, TurnId, UnitOfWork,
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

impl Bounded<dyn Storage> {
    pub(crate) fn storage(inner: Arc<dyn Storage>, process: &Process) -> Arc<Self> {
        Self::part("storage", inner, process)
    }
}

/// A unit of work, as one process sees it.
struct BoundedUnit {
    inner: Box<dyn UnitOfWork>,
    process: Process,
    open: OpenUnit,
}

/// The parts that a storage and a unit of work have alike.
macro_rules! parts {
    () => {
        fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
            Bounded::part("conversations", self.inner.conversations(), &self.process)
        }

        fn messages(&self) -> Arc<dyn Repository<Message>> {
            Bounded::part("messages", self.inner.messages(), &self.process)
        }

        fn turns(&self) -> Arc<dyn Repository<Turn>> {
            Bounded::part("turns", self.inner.turns(), &self.process)
        }

        fn turn_events(&self) -> Arc<dyn TurnEvents> {
            Bounded::part("events", self.inner.turn_events(), &self.process)
        }

        fn leases(&self) -> Arc<dyn Leases> {
            Bounded::part("leases", self.inner.leases(), &self.process)
        }

        fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
            Bounded::part(KEYS, self.inner.idempotency_keys(), &self.process)
        }

        fn checkpointer(&self) -> Arc<dyn Checkpointer> {
            Bounded::part("checkpoints", self.inner.checkpointer(), &self.process)
        }
    };
}

#[async_trait]
impl Storage for Bounded<dyn Storage> {
    parts!();

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        let begun = async {
            Ok(Box::new(BoundedUnit {
                inner: self.inner.begin().await?,
                process: self.process.clone(),
                open: self.process.open_unit(),
            }) as Box<dyn UnitOfWork>)
        };
        self.cross("begin", begun).await
    }

    async fn forget_idempotency_keys(&self, age: Duration) -> Result<u64> {
        let forgotten = self.inner.forget_idempotency_keys(age);
        self.cross("forget keys", forgotten).await
    }

    async fn ping(&self) -> Result<()> {
        self.cross("ping", self.inner.ping()).await
    }
}

#[async_trait]
impl UnitOfWork for BoundedUnit {
    parts!();

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
impl Leases for Bounded<dyn Leases> {
    async fn replace(&self, seen: &Turn, next: Turn) -> Result<Turn> {
        self.cross("replace", self.inner.replace(seen, next)).await
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
}

#[async_trait]
impl TurnEvents for Bounded<dyn TurnEvents> {
    async fn append(&self, mut batch: EventBatch) -> Result<()> {
        if self.process.makes(Mistake::EventsOfAnybody) {
            while let Err(Error::Conflict(_)) = self.inner.append(batch.clone()).await {
                batch.sequence += 1;
            }
            return Ok(());
        }
        self.cross("append", self.inner.append(batch)).await
    }

    async fn read(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let read = self.inner.read(conversation_id, turn_id, after, limit);
        self.cross("read", read).await
    }

    async fn latest(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.cross("latest", self.inner.latest(turns)).await
    }

    async fn delete_older(&self, age: Duration) -> Result<u64> {
        self.cross("delete older", self.inner.delete_older(age))
            .await
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

    fn telling(
        &self,
        fence: Fence,
        events: EventBatch,
        change: Option<TurnChange>,
    ) -> Arc<dyn Checkpointer> {
        let telling = self.inner.telling(fence, events, change);
        Self::part(self.part, telling, &self.process)
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
