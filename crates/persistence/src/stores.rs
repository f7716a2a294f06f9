//! The repositories and stores of a connection, a pool or a transaction.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use yai_agentkit_core::{
    Checkpointer, Conversation, Message, Repository, Stores, Turn, TurnStore,
    access::ApiKey,
    audit::AuditLog,
    store::MemoryStore,
    turn::{IdempotencyKey, TurnLedger},
};

use crate::{
    audit::SqlAudit,
    checkpointer::{SqlCheckpointer, SqlLedger, TurnCall, Write},
    coalescer::{Coalescer, Policy},
    connection::Connection,
    encryption::Keys,
    repository::{Calls, SqlRepository, StoredEntity},
    store::{SqlStore, StoreCalls},
};

#[derive(Clone)]
pub(crate) struct SqlStores {
    connection: Connection,
    keys: Keys,
    pool: Option<Pool>,
}

/// What calls on a pool do together.
#[derive(Clone)]
struct Pool {
    writes: Coalescer<Write>,
    /// On SQLite.
    turns: Option<Coalescer<TurnCall>>,
    store: StoreCalls,
    /// How long a call waits for its group.
    patience: Duration,
    /// The [`Calls`] of each entity.
    calls: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl SqlStores {
    pub(crate) fn on_pool(connection: Connection, keys: Keys, patience: Duration) -> Self {
        let pool = Pool {
            writes: Coalescer::new(connection.clone(), Policy::of_writes(&connection, patience)),
            turns: (!connection.is_postgres())
                .then(|| Coalescer::new(connection.clone(), Policy::of_turns(patience))),
            store: StoreCalls::new(&connection, patience),
            patience,
            calls: Arc::default(),
        };
        Self {
            connection,
            keys,
            pool: Some(pool),
        }
    }

    pub(crate) fn within(transaction: Connection, keys: Keys) -> Self {
        Self {
            connection: transaction,
            keys,
            pool: None,
        }
    }

    /// Waits until nothing is under way and nothing waits.
    pub(crate) async fn idle(&self) {
        if let Some(pool) = &self.pool {
            if let Some(turns) = &pool.turns {
                turns.idle().await;
            }
            pool.writes.idle().await;
            pool.store.idle().await;
        }
    }

    pub(crate) fn repository<E: StoredEntity>(&self) -> Arc<dyn Repository<E>> {
        let connection = self.connection.clone();
        let repository = match &self.pool {
            Some(pool) => {
                let calls = pool.calls::<E>(&connection);
                SqlRepository::on_pool(connection, calls)
            }
            None => SqlRepository::within(connection),
        };
        Arc::new(repository.with(self.keys.clone()))
    }

    pub(crate) fn checkpoints(&self) -> SqlCheckpointer {
        let connection = self.connection.clone();
        let checkpoints = match &self.pool {
            Some(pool) => {
                SqlCheckpointer::on_pool(connection, pool.writes.clone(), pool.turns.clone())
            }
            None => SqlCheckpointer::within(connection),
        };
        checkpoints.with(self.keys.clone())
    }
}

impl Pool {
    fn calls<E: StoredEntity>(&self, connection: &Connection) -> Arc<Calls<E>> {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all
            .entry(TypeId::of::<E>())
            .or_insert_with(|| Arc::new(Calls::<E>::new(connection, self.patience)));
        let calls = Arc::clone(calls).downcast();
        calls.expect("each is entered under its type")
    }
}

impl Stores for SqlStores {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.repository()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.repository()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.repository()
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        Arc::new(self.checkpoints())
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        Arc::new(SqlLedger {
            connection: self.connection.clone(),
            keys: self.keys.clone(),
        })
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.repository()
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        self.repository()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Arc::new(self.checkpoints())
    }

    fn audit(&self) -> Arc<dyn AuditLog> {
        Arc::new(SqlAudit(self.connection.clone()))
    }

    fn memory_store(&self) -> Arc<dyn MemoryStore> {
        let calls = self.pool.as_ref().map(|pool| pool.store.clone());
        let keys = self.keys.clone();
        Arc::new(SqlStore::new(self.connection.clone(), keys, calls))
    }
}
