use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Checkpointer, Conversation, IdempotencyKey, Leases, Message, Repository, Result, Turn,
    TurnEvents,
};

/// Everything that AgentKit remembers, on one back end: what application code depends on.
#[async_trait]
pub trait Storage: Send + Sync {
    /// The conversations.
    fn conversations(&self) -> Arc<dyn Repository<Conversation>>;

    /// The messages of all conversations.
    fn messages(&self) -> Arc<dyn Repository<Message>>;

    /// The turns of all conversations.
    fn turns(&self) -> Arc<dyn Repository<Turn>>;

    /// What the turns have told so far.
    fn turn_events(&self) -> Arc<dyn TurnEvents>;

    /// The leases of the turns.
    fn leases(&self) -> Arc<dyn Leases>;

    /// The keys of requests.
    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>>;

    /// Forgets the keys that were used longer than `age` ago, and returns how many.
    async fn forget_idempotency_keys(&self, age: Duration) -> Result<u64>;

    /// The checkpoints of all threads.
    fn checkpointer(&self) -> Arc<dyn Checkpointer>;

    /// Begins a unit of work: what is done through it becomes visible and durable together.
    async fn begin(&self) -> Result<Box<dyn UnitOfWork>>;

    /// Whether the back end takes a write now. Leaves nothing behind.
    async fn ping(&self) -> Result<()>;
}

/// One transaction over repositories and checkpoints.
///
/// Dropping it undoes everything. After an error from one of its parts it can only be dropped.
#[async_trait]
pub trait UnitOfWork: Send + Sync {
    /// The conversations, within this transaction.
    fn conversations(&self) -> Arc<dyn Repository<Conversation>>;

    /// The messages, within this transaction.
    fn messages(&self) -> Arc<dyn Repository<Message>>;

    /// The turns, within this transaction.
    fn turns(&self) -> Arc<dyn Repository<Turn>>;

    /// What the turns have told, within this transaction.
    fn turn_events(&self) -> Arc<dyn TurnEvents>;

    /// The leases of the turns, within this transaction.
    fn leases(&self) -> Arc<dyn Leases>;

    /// The keys of requests, within this transaction.
    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>>;

    /// The checkpoints, within this transaction.
    fn checkpointer(&self) -> Arc<dyn Checkpointer>;

    /// Makes everything durable, or nothing.
    async fn commit(self: Box<Self>) -> Result<()>;
}
