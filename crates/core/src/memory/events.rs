use std::collections::BTreeMap;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::State;
use crate::{ConversationId, Error, Result, TurnId, turn::EventBatch};

/// The events and the time of each batch.
pub(super) type Batches = BTreeMap<(ConversationId, TurnId, u64), (Vec<Json>, Instant)>;

impl State {
    /// Adds a batch to an existing conversation, under a sequence that is free.
    pub(super) fn append(&mut self, batch: EventBatch) -> Result<()> {
        let conversation = batch.conversation_id;
        if !self.conversations.contains_key(&conversation) {
            return Err(Error::not_found("conversation", conversation));
        }
        let key = (conversation, batch.turn_id, batch.sequence);
        if self.events.contains_key(&key) {
            return Err(Error::Conflict(batch.conflict()));
        }
        self.events.insert(key, (batch.events, Instant::now()));
        Ok(())
    }

    /// Whether exactly this batch is there.
    pub(super) fn has_batch(&self, batch: &EventBatch) -> bool {
        let key = (batch.conversation_id, batch.turn_id, batch.sequence);
        let stored = self.events.get(&key);
        stored.is_some_and(|(events, _)| *events == batch.events)
    }
}
