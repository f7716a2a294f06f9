//! All of [`Storage`] in memory: the model against which back ends are tested, and a storage for
//! an application's own tests. Nothing survives the process.

mod checkpointer;
mod events;
mod lease;
mod repository;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Checkpointer, Conversation, IdempotencyKey, Leases, Message, Repository, Result, Storage, Turn,
    TurnEvents, TurnId, UnitOfWork,
};

use checkpointer::Checkpoints;
use events::Batches;
use repository::Rows;

/// Everything, in memory. A clone shares the contents.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held by whoever writes: one call, or a unit of work from its begin to its end.
    writer: Arc<tokio::sync::Mutex<()>>,
    committed: RwLock<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    conversations: Rows<Conversation>,
    messages: Rows<Message>,
    turns: Rows<Turn>,
    events: Batches,
    /// When the lease of each turn was renewed; `None` is before any lease that lasts.
    renewed_at: BTreeMap<TurnId, Option<Instant>>,
    idempotency_keys: Rows<IdempotencyKey>,
    /// When each key was used.
    used_at: BTreeMap<Uuid, Instant>,
    /// Of every message and turn, where it stands among all of its kind.
    positions: BTreeMap<Uuid, i64>,
    last_position: i64,
    checkpoints: Checkpoints,
}

/// What a repository or a checkpointer works on.
#[derive(Clone, Debug)]
enum Access {
    Committed(Arc<Shared>),
    Transaction(Arc<Mutex<State>>),
}

const POISONED: &str = "a panic while the memory storage was locked";

impl Access {
    fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        match self {
            Self::Committed(shared) => read(&shared.committed.read().expect(POISONED)),
            Self::Transaction(state) => read(&state.lock().expect(POISONED)),
        }
    }

    /// `write` changes nothing when it fails.
    async fn write<R>(&self, write: impl FnOnce(&mut State) -> R) -> R {
        match self {
            Self::Committed(shared) => {
                let _writer = shared.writer.lock().await;
                write(&mut shared.committed.write().expect(POISONED))
            }
            Self::Transaction(state) => write(&mut state.lock().expect(POISONED)),
        }
    }

    fn repository<E: repository::MemoryEntity>(&self) -> Arc<dyn Repository<E>> {
        Arc::new(repository::MemoryRepository::new(self.clone()))
    }

    fn turn_events(&self) -> Arc<dyn TurnEvents> {
        Arc::new(events::MemoryTurnEvents(self.clone()))
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(lease::MemoryLeases(self.clone()))
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Arc::new(checkpointer::MemoryCheckpointer::new(self.clone()))
    }
}

impl MemoryStorage {
    fn access(&self) -> Access {
        Access::Committed(Arc::clone(&self.0))
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.access().repository()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.access().repository()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.access().repository()
    }

    fn turn_events(&self) -> Arc<dyn TurnEvents> {
        self.access().turn_events()
    }

    fn leases(&self) -> Arc<dyn Leases> {
        self.access().leases()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.access().repository()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        self.access().checkpointer()
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        let writer = Arc::clone(&self.0.writer).lock_owned().await;
        let state = self.0.committed.read().expect(POISONED).clone();
        Ok(Box::new(MemoryUnitOfWork {
            shared: Arc::clone(&self.0),
            state: Arc::new(Mutex::new(state)),
            _writer: writer,
        }))
    }

    async fn forget_idempotency_keys(&self, age: Duration) -> Result<u64> {
        let forgotten = |state: &mut State| {
            let keys = &mut state.idempotency_keys;
            let before = keys.len();
            keys.retain(|id, _| state.used_at[id].elapsed() < age);
            state.used_at.retain(|id, _| keys.contains_key(id));
            (before - keys.len()) as u64
        };
        Ok(self.access().write(forgotten).await)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

struct MemoryUnitOfWork {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
    _writer: OwnedMutexGuard<()>,
}

impl MemoryUnitOfWork {
    fn access(&self) -> Access {
        Access::Transaction(Arc::clone(&self.state))
    }
}

#[async_trait]
impl UnitOfWork for MemoryUnitOfWork {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.access().repository()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.access().repository()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.access().repository()
    }

    fn turn_events(&self) -> Arc<dyn TurnEvents> {
        self.access().turn_events()
    }

    fn leases(&self) -> Arc<dyn Leases> {
        self.access().leases()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.access().repository()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        self.access().checkpointer()
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let state = self.state.lock().expect(POISONED).clone();
        *self.shared.committed.write().expect(POISONED) = state;
        Ok(())
    }
}
