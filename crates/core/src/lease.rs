use std::time::Duration;

use async_trait::async_trait;

use crate::{ConversationId, OwnerId, Result, Turn};

/// Who works on which turn: changes of turns that ask what is stored, by the storage's own clock.
///
/// A running turn has an owner until [`Turn::lease`] after it was stored, taken or renewed. Then
/// anybody may [`take`](Self::take) it. Taking raises [`Turn::epoch`], with which the owner fences
/// what it writes to the thread ([`Fence`](crate::Fence)): an owner that lost its lease without
/// knowing can do no harm. Every method is one statement.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Replaces a turn by `next`, if its status and epoch are still those of `seen`; its lease
    /// begins anew. [`Error::Conflict`](crate::Error::Conflict) where they are not, or where
    /// another turn of the conversation runs. The last word of who owns a turn, and the first of
    /// who begins one that waits.
    async fn replace(&self, seen: &Turn, next: Turn) -> Result<Turn>;

    /// Takes a running turn whose lease has ended, or that is `owner`'s already, for as long as
    /// `lease`: its epoch rises by one, and its attempt unless it was given back. `None` where
    /// somebody else was faster, or still has the lease. Waits for nobody.
    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>>;

    /// Renews all leases of `owner`, and returns the conversations whose running turn is its own.
    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>>;

    /// What waits for somebody to work on it, the first stored first: running turns whose lease has ended,
    /// and the first queued turn of every conversation in which none runs or waits for a person.
    async fn due(&self, limit: u64) -> Result<Vec<Turn>>;
}
