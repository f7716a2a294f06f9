use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::{Access, State};
use crate::{
    Announcements, ConversationId, Error, EventBatch, LatestBatches, Result, TurnEvents, TurnId,
};

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
    pub(super) fn has_told(&self, batch: &EventBatch) -> bool {
        let key = (batch.conversation_id, batch.turn_id, batch.sequence);
        let stored = self.events.get(&key);
        stored.is_some_and(|(events, _)| *events == batch.events)
    }
}

pub(super) struct MemoryTurnEvents(pub(super) Access);

#[async_trait]
impl TurnEvents for MemoryTurnEvents {
    async fn append(&self, batch: EventBatch) -> Result<()> {
        batch.validate()?;
        self.0.write(|state| state.append(batch)).await
    }

    async fn read(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let place = |sequence| (conversation_id, turn_id, sequence);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.0.read(|state| {
            let batches = state.events.range(place(0)..=place(u64::MAX));
            batches
                .filter(|((.., sequence), _)| *sequence > after)
                .take(limit)
                .map(|((.., sequence), (events, _))| EventBatch {
                    conversation_id,
                    turn_id,
                    sequence: *sequence,
                    events: events.clone(),
                })
                .collect()
        }))
    }

    async fn latest(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        Ok(self.0.read(|state| {
            let newest = |(conversation, turn): &(ConversationId, TurnId)| {
                let place = |sequence| (*conversation, *turn, sequence);
                let mut batches = state.events.range(place(0)..=place(u64::MAX));
                batches
                    .next_back()
                    .map(|((.., sequence), _)| (*turn, *sequence))
            };
            turns.iter().filter_map(newest).collect()
        }))
    }

    async fn delete_older(&self, age: Duration) -> Result<u64> {
        let delete = |state: &mut State| {
            let (turns, before) = (&state.turns, state.events.len());
            state.events.retain(|(_, turn, _), (_, stored_at)| {
                let has_ended = turns.get(turn).is_none_or(|turn| turn.status.is_final());
                let is_old = stored_at.elapsed() > age;
                !(has_ended && is_old)
            });
            (before - state.events.len()) as u64
        };
        Ok(self.0.write(delete).await)
    }

    /// There is no other process.
    async fn announce(&self, _latest: &LatestBatches) -> Result<()> {
        Ok(())
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        Ok(None)
    }
}
