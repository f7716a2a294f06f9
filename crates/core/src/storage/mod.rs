//! Everything that is remembered, on one back end.

mod repository;

pub use repository::{Change, Cursor, Entity, ListQuery, Order, Page, Repository, Start};

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Checkpointer, Conversation, ConversationId, Message, Result, ThreadId, Turn, TurnStore,
    access::ApiKey,
    audit::AuditLog,
    conversation::ConversationSearch,
    retention::RetentionStore,
    store::MemoryStore,
    turn::{IdempotencyKey, TurnLedger},
};

/// The repositories and stores of a back end: each for itself, where a [`Storage`] hands them out,
/// together in one transaction, where a [`UnitOfWork`] does.
pub trait Stores: Send + Sync {
    /// The conversations.
    fn conversations(&self) -> Arc<dyn Repository<Conversation>>;

    /// The messages of all conversations.
    fn messages(&self) -> Arc<dyn Repository<Message>>;

    /// The rows of the turns of all conversations.
    fn turns(&self) -> Arc<dyn Repository<Turn>>;

    /// The turns as engines work on them, with the events that they publish.
    fn turn_store(&self) -> Arc<dyn TurnStore>;

    /// The turns whose state somebody else keeps, with what they record.
    fn turn_ledger(&self) -> Arc<dyn TurnLedger>;

    /// The keys of requests.
    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>>;

    /// The keys of those who call a server.
    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>>;

    /// The checkpoints of all threads.
    fn checkpointer(&self) -> Arc<dyn Checkpointer>;

    /// Who has done what that can't be undone.
    fn audit(&self) -> Arc<dyn AuditLog>;

    /// The items that threads and conversations share.
    fn memory_store(&self) -> Arc<dyn MemoryStore>;
}

/// Has the stores of something of its own, and so is [`Stores`] itself: for back ends, which make a
/// storage and a unit of work of the same parts.
pub trait HasStores: Send + Sync {
    /// Those that it has.
    fn stores(&self) -> &dyn Stores;
}

impl<T: HasStores> Stores for T {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.stores().conversations()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.stores().messages()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.stores().turns()
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        self.stores().turn_store()
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        self.stores().turn_ledger()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.stores().idempotency_keys()
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        self.stores().api_keys()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        self.stores().checkpointer()
    }

    fn audit(&self) -> Arc<dyn AuditLog> {
        self.stores().audit()
    }

    fn memory_store(&self) -> Arc<dyn MemoryStore> {
        self.stores().memory_store()
    }
}

/// Everything that AgentKit remembers, on one back end: what application code depends on.
///
/// ```
/// use yai_agentkit_core::{
///     memory::MemoryStorage, Conversation, Message, Result, Role, Storage, Stores,
/// };
///
/// /// Both or neither.
/// async fn greet(storage: &dyn Storage) -> Result<Conversation> {
///     let unit = storage.begin().await?;
///     let chat = unit.conversations().add(Conversation::titled("Hello")).await?;
///     unit.messages().add(Message::new(chat.id, Role::Assistant, "Hello!")).await?;
///     unit.commit().await?;
///     Ok(chat)
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let storage = MemoryStorage::default();
/// let chat = greet(&storage).await?;
/// assert!(storage.conversations().exists(&chat.id).await?);
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Storage: Stores {
    /// The thread of a conversation, whatever else its row says; `None` where there is none.
    async fn thread_of(&self, id: ConversationId) -> Result<Option<ThreadId>> {
        let found = self.conversations().get(&id).await?;
        Ok(found.map(|conversation| conversation.thread_id()))
    }

    /// What finds conversations by the texts of their messages.
    fn search(&self) -> Arc<dyn ConversationSearch>;

    /// What deletes what is not kept any more.
    fn retention(&self) -> Arc<dyn RetentionStore>;

    /// The tenant whose rows it has, where that is one.
    fn tenant(&self) -> Option<&str> {
        None
    }

    /// The tenants, where it is divided among them and is that of none.
    fn tenants(&self) -> Option<Arc<dyn Tenants>> {
        None
    }

    /// Begins a unit of work: what is done through it becomes visible and durable together.
    async fn begin(&self) -> Result<Box<dyn UnitOfWork>>;

    /// Whether the back end takes a write now. Leaves nothing behind.
    async fn ping(&self) -> Result<()>;
}

/// Those among whom a storage is divided, to whoever works for all of them.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// The storage of one, which need not have anything yet.
    fn storage(&self, tenant: &str) -> Result<Arc<dyn Storage>>;

    /// All that have conversations.
    async fn all(&self) -> Result<Vec<String>>;

    /// Whose an API key is; `None` where there is none.
    async fn of_key(&self, id: Uuid) -> Result<Option<String>>;

    /// Whose a conversation is; `None` where there is none.
    async fn of_conversation(&self, id: ConversationId) -> Result<Option<String>>;
}

/// One transaction over repositories and stores.
///
/// Dropping it undoes everything. After an error from one of its parts it can only be dropped.
#[async_trait]
pub trait UnitOfWork: Stores {
    /// Makes everything durable, or nothing.
    async fn commit(self: Box<Self>) -> Result<()>;
}
