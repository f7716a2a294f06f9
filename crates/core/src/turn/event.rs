use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value as Json;

use crate::{ConflictKind, ConversationId, Result, TurnId, validate};

/// Events of one turn that were stored together, for those who watch it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
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
    /// The batch of a turn with this sequence.
    pub fn new(
        conversation_id: ConversationId,
        turn_id: TurnId,
        sequence: u64,
        events: Vec<Json>,
    ) -> Self {
        Self {
            conversation_id,
            turn_id,
            sequence,
            events,
        }
    }

    /// What [`Error::Conflict`](crate::Error::Conflict) says where its sequence is taken.
    pub fn conflict(&self) -> ConflictKind {
        ConflictKind::EventBatch {
            turn: self.turn_id,
            sequence: self.sequence,
        }
    }

    /// Refuses events that could not be read back.
    pub fn validate(&self) -> Result<()> {
        let mut events = self.events.iter();
        events.try_for_each(|event| validate::json_depth("events", event))
    }
}

/// The newest batches of some turns, by turn.
pub type LatestBatches = BTreeMap<TurnId, u64>;

/// See [`TurnStore::announcements`](super::TurnStore::announcements).
#[async_trait]
pub trait Announcements: Send {
    /// Waits for the next one. `None` after an interruption, in which some may have been missed.
    async fn next(&mut self) -> Result<Option<LatestBatches>>;
}
