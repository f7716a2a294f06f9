use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde_json::Value as Json;

use crate::{ConflictKind, ConversationId, Result, TurnId, validate};

/// Events of one turn that were stored together, for those who watch it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventBatch {
    /// The conversation of the turn; deleted with it.
    pub conversation_id: ConversationId,
    /// The turn.
    pub turn_id: TurnId,
    /// Its place among the batches of the turn: 1 for the first, without gaps.
    pub sequence: u64,
    /// The events, in order. What they look like is the application's affair.
    pub events: Vec<Json>,
}

impl EventBatch {
    /// What [`Error::Conflict`](crate::Error::Conflict) says where its sequence is taken.
    pub fn conflict(&self) -> ConflictKind {
        ConflictKind::EventBatch {
            turn: self.turn_id,
            sequence: self.sequence,
        }
    }
}

impl EventBatch {
    /// Refuses events that could not be read back.
    pub fn validate(&self) -> Result<()> {
        let mut events = self.events.iter();
        events.try_for_each(|event| validate::json_depth("events", event))
    }
}

/// The newest batches of some turns, by turn.
pub type LatestBatches = BTreeMap<TurnId, u64>;

/// What turns have told so far, batch by batch.
///
/// Each call is one transaction. Batches become visible in the order of their sequence as long as
/// one writer after the other appends to a turn.
#[async_trait]
pub trait TurnEvents: Send + Sync {
    /// Stores a batch. A sequence that the turn has already is [`Error::Conflict`]: the turn has
    /// another writer. A conversation that is gone is [`Error::NotFound`].
    ///
    /// [`Error::Conflict`]: crate::Error::Conflict
    /// [`Error::NotFound`]: crate::Error::NotFound
    async fn append(&self, batch: EventBatch) -> Result<()>;

    /// The batches of a turn with a greater sequence than `after`, in order, at most `limit`.
    async fn read(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>>;

    /// The newest sequence of each of the turns that has a batch.
    async fn latest(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches>;

    /// Deletes the batches that are older than `age`, by the storage's clock, of turns that have
    /// ended. Returns how many.
    async fn delete_older(&self, age: Duration) -> Result<u64>;

    /// Tells the other processes on this storage what the newest batches are. May be lost.
    async fn announce(&self, latest: &LatestBatches) -> Result<()>;

    /// Receives what any process announces from now on; `None` where the storage can't tell, so
    /// that one must look oneself.
    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>>;
}

/// See [`TurnEvents::announcements`].
#[async_trait]
pub trait Announcements: Send {
    /// Waits for the next one. `None` after an interruption, in which some may have been missed.
    async fn next(&mut self) -> Result<Option<LatestBatches>>;
}
