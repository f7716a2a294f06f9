//! The turns as engines work on them: [`TurnStore`], of its parts.

use std::time::Duration;

use async_trait::async_trait;
use yai_agentkit_core::{
    ConversationId, OwnerId, Result, Turn, TurnId, TurnStore,
    turn::{Announcements, EventBatch, LatestBatches, TurnBegin, TurnChange, TurnStep},
};

use crate::{
    checkpointer::SqlCheckpointer,
    entity::idempotency_key,
    error::storage_error,
    events::SqlTurnEvents,
    lease::{Of, SqlLeases},
    presence,
};

/// With the checkpoints of the same connection.
pub(crate) struct SqlTurns(pub(crate) SqlCheckpointer);

impl SqlTurns {
    fn leases(&self) -> SqlLeases {
        SqlLeases(self.0.connection().clone())
    }

    fn turn_events(&self) -> SqlTurnEvents {
        SqlTurnEvents(self.0.connection().clone())
    }
}

#[async_trait]
impl TurnStore for SqlTurns {
    async fn begin(&self, begin: TurnBegin) -> Result<Turn> {
        self.0.begin_turn(begin).await
    }

    async fn step(&self, step: TurnStep) -> Result<()> {
        self.0.step_turn(step).await
    }

    async fn change(&self, change: TurnChange) -> Result<Turn> {
        self.0.change_turn(change).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        self.leases().take(Of::Engines, seen, owner, lease).await
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        self.leases().renew(owner).await
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        self.leases().due(Of::Engines, limit).await
    }

    async fn append(&self, batch: EventBatch) -> Result<()> {
        self.turn_events().append(&batch).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let events = self.turn_events();
        events.read(conversation_id, turn_id, [after, limit]).await
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.turn_events().latest(turns).await
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        self.turn_events().delete_older(age).await
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        let forgotten = presence::forget(self.0.connection()).await;
        forgotten.map_err(|error| storage_error("forget servers", error))?;
        idempotency_key::forget(self.0.connection(), age).await
    }

    async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        self.turn_events().announce(latest).await
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        self.turn_events().announcements().await
    }
}
