//! All of [`Storage`] in memory: the model against which back ends are tested, and a storage for
//! an application's own tests. Nothing survives the process.

mod audit;
mod checkpointer;
mod checkpoints;
mod events;
mod ledger;
mod repository;
mod retention;
mod search;
mod store;
mod turn;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Checkpointer, Clock, Conversation, ConversationId, Message, Repository, Result, Storage,
    Stores, ThreadId, Turn, TurnId, TurnStore, UnitOfWork, Value,
    access::ApiKey,
    audit::{AuditEntry, AuditLog},
    conversation::{ConversationSearch, InConversation},
    retention::RetentionStore,
    storage::HasStores,
    store::MemoryStore,
    turn::{IdempotencyKey, OwnerId, TurnLedger},
};

use checkpoints::Checkpoints;
use events::Batches;
use repository::{MemoryRepository, Rows};

/// Everything, in memory. A clone shares the contents.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
    access: Access,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        let shared = Arc::default();
        Self {
            access: Access::Committed(Arc::clone(&shared)),
            shared,
        }
    }
}

impl MemoryStorage {
    /// The same storage, which stamps by `clock` what is stored from now on, through every clone.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        self.shared
            .committed
            .write()
            .expect(POISONED)
            .checkpoints
            .clock = clock;
        self
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Held by whoever writes: one call, or a unit of work from its begin to its end.
    writer: Arc<tokio::sync::Mutex<()>>,
    committed: RwLock<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    api_keys: Rows<ApiKey>,
    audit: Vec<AuditEntry>,
    /// Who sweeps, and until when.
    sweeper: Option<(OwnerId, Instant)>,
    conversations: Rows<Conversation>,
    messages: Rows<Message>,
    turns: Rows<Turn>,
    events: Batches,
    /// When the lease of each turn was renewed; `None` is before any lease that lasts.
    renewed_at: BTreeMap<InConversation<TurnId>, Option<Instant>>,
    idempotency_keys: Rows<IdempotencyKey>,
    /// When each key was used.
    used_at: BTreeMap<InConversation<Uuid>, Instant>,
    /// Of every conversation, message and turn, where it stands among all of its kind.
    positions: BTreeMap<InConversation<Uuid>, i64>,
    last_position: i64,
    /// The turns that were opened, and their threads.
    opened: BTreeMap<InConversation<TurnId>, ThreadId>,
    /// By conversation, turn and name.
    records: BTreeMap<(ConversationId, TurnId, String), Option<Value>>,
    checkpoints: Checkpoints,
    items: store::Items,
}

impl State {
    fn now(&self) -> DateTime<Utc> {
        self.checkpoints.clock.now()
    }
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
}

impl Stores for Access {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        Arc::new(MemoryRepository::new(self.clone()))
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        Arc::new(MemoryRepository::new(self.clone()))
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        Arc::new(MemoryRepository::new(self.clone()))
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        Arc::new(turn::MemoryTurns(self.clone()))
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        Arc::new(ledger::MemoryLedger(self.clone()))
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        Arc::new(MemoryRepository::new(self.clone()))
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        Arc::new(MemoryRepository::new(self.clone()))
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Arc::new(checkpointer::MemoryCheckpointer(self.clone()))
    }

    fn audit(&self) -> Arc<dyn AuditLog> {
        Arc::new(audit::MemoryAudit(self.clone()))
    }

    fn memory_store(&self) -> Arc<dyn MemoryStore> {
        Arc::new(store::Store(self.clone()))
    }
}

impl HasStores for MemoryStorage {
    fn stores(&self) -> &dyn Stores {
        &self.access
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn search(&self) -> Arc<dyn ConversationSearch> {
        Arc::new(search::MemorySearch(self.access.clone()))
    }

    fn retention(&self) -> Arc<dyn RetentionStore> {
        Arc::new(retention::MemoryRetention(self.access.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        let shared = &self.shared;
        let writer = Arc::clone(&shared.writer).lock_owned().await;
        let state = shared.committed.read().expect(POISONED).clone();
        Ok(Box::new(MemoryUnitOfWork {
            access: Access::Transaction(Arc::new(Mutex::new(state))),
            shared: Arc::clone(shared),
            _writer: writer,
        }))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

struct MemoryUnitOfWork {
    access: Access,
    shared: Arc<Shared>,
    _writer: OwnedMutexGuard<()>,
}

impl HasStores for MemoryUnitOfWork {
    fn stores(&self) -> &dyn Stores {
        &self.access
    }
}

#[async_trait]
impl UnitOfWork for MemoryUnitOfWork {
    async fn commit(self: Box<Self>) -> Result<()> {
        let state = self.access.read(State::clone);
        *self.shared.committed.write().expect(POISONED) = state;
        Ok(())
    }
}
