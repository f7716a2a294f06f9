//! Keeping the own leases, and taking over what others have left.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use yai_agentkit_core::{
    ConversationId, Error, ListQuery, Result, TurnStatus,
    turn::{TurnChange, TurnFilter},
};

use super::{TurnEngine, TurnError, TurnOutcome, chat::ended};
use crate::error_chain;

/// How many turns are taken over at once.
const CONCURRENT_RESUMES: usize = 8;

/// How many turns one look takes.
const DUE: u64 = 100;

/// How often a lease is renewed while it lasts, and how often at least others are looked for: a turn
/// is taken over at the latest 1 1/4 leases after its owner's last sign of life.
pub(super) const RENEWALS: u32 = 4;

/// How often at least one looks for turns that others have left or given back.
const LOOK: Duration = Duration::from_millis(200);

/// How often used keys are forgotten, and old events deleted.
const FORGETTING: Duration = Duration::from_secs(600);

impl TurnEngine {
    /// Renews the leases of the turns under way, takes over what others have left, begins what
    /// waits for its turn, forgets old keys and events, deletes what is not kept, indexes what was said, notifies other engines of what
    /// turns publish and is notified by them: from now until the engine is stopped and idle.
    pub async fn keep(&self) {
        let until_idle = async {
            self.stopped().await;
            self.claims.idle().await;
        };
        tokio::select! {
            () = until_idle => {}
            () = self.keep_renewing() => {}
            () = self.keep_taking_over() => {}
            () = self.keep_forgetting() => {}
            () = self.keep_deleting() => {}
            () = self.keep_indexing() => {}
            () = self.keep_notifying() => {}
        }
    }

    /// Renews the leases of the turns under way, for an engine that takes over nothing.
    pub async fn keep_own(&self) {
        self.keep_renewing().await;
    }

    /// Takes over and finishes all turns that wait for somebody, some at a time. What fails is
    /// logged.
    pub async fn settle_all(&self) -> Result<()> {
        let mut seen = HashSet::new();
        loop {
            let due = self.storage.turn_store().due(DUE).await?;
            let new = due.into_iter().filter(|turn| seen.insert(turn.id));
            let conversations: Vec<_> = new.map(|turn| turn.conversation_id).collect();
            if conversations.is_empty() || self.is_stopping() {
                return Ok(());
            }
            tracing::info!(turns = conversations.len(), "finishing unfinished turns");
            let resumes = futures::stream::iter(conversations);
            futures::StreamExt::for_each_concurrent(resumes, CONCURRENT_RESUMES, |conversation| {
                self.take_over(conversation)
            })
            .await;
        }
    }

    async fn keep_renewing(&self) {
        let mut ticks = self.ticks(self.limits.lease);
        loop {
            ticks.tick().await;
            match self.storage.turn_store().renew(self.owner).await {
                Ok(owned) => {
                    // Where a failing storage has ended the work, nobody else may take the turn.
                    for conversation in owned {
                        if !self.claims.is_claimed(conversation) && !self.is_stopping() {
                            let engine = self.clone();
                            tokio::spawn(async move { engine.take_over(conversation).await });
                        }
                    }
                }
                Err(error) => tracing::warn!(error = error_chain(&error), "leases not renewed"),
            }
        }
    }

    async fn keep_taking_over(&self) {
        let permits = Arc::new(Semaphore::new(CONCURRENT_RESUMES));
        let mut ticks = self.ticks(LOOK);
        loop {
            ticks.tick().await;
            if self.is_stopping() || permits.available_permits() == 0 {
                continue;
            }
            match self.storage.turn_store().due(DUE).await {
                Ok(due) => {
                    for turn in due {
                        // The rest is for the next look, or for another server.
                        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                            break;
                        };
                        let engine = self.clone();
                        tokio::spawn(async move {
                            engine.take_over(turn.conversation_id).await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    tracing::error!(error = error_chain(&error), "unfinished turns not read");
                }
            }
        }
    }

    async fn keep_forgetting(&self) {
        let mut ticks = interval(FORGETTING);
        loop {
            ticks.tick().await;
            let turns = self.storage.turn_store();
            if let Err(error) = turns.forget_keys(self.limits.key_age).await {
                tracing::warn!(
                    error = error_chain(&error),
                    "idempotency keys not forgotten"
                );
            }
            if let Err(error) = turns.forget_events(self.limits.event_age).await {
                tracing::warn!(error = error_chain(&error), "old events not deleted");
            }
        }
    }

    async fn keep_notifying(&self) {
        let turns = self.storage.turn_store();
        self.subscriptions.keep(&*turns).await;
    }

    fn ticks(&self, longest: Duration) -> tokio::time::Interval {
        let period = self.limits.lease / RENEWALS;
        let period = period.min(longest).max(Duration::from_millis(10));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Ends the turns of a conversation in which nothing can go on, those that run after their
    /// attempts.
    pub(super) async fn end_unreadable(
        &self,
        conversation: ConversationId,
        error: &Error,
    ) -> Result<(), Error> {
        let unfinished = ListQuery::filtered(TurnFilter::unfinished().of(conversation));
        let store = self.storage.turn_store();
        for turn in self.storage.turns().list(&unfinished).await?.items {
            let seen = match turn.status {
                TurnStatus::Running => {
                    match store.take(&turn, self.owner, self.limits.lease).await? {
                        Some(taken) if taken.attempt > self.limits.max_attempts => taken,
                        _ => continue,
                    }
                }
                TurnStatus::Queued => turn,
                _ => continue,
            };
            let failed = ended(&seen, TurnStatus::Failed, Some(error.to_string()));
            match store.change(TurnChange::new(seen.clone(), failed)).await {
                Ok(_) => tracing::error!(turn = %seen.id, %error, "turn given up"),
                // Somebody else has it.
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_over(&self, conversation: ConversationId) {
        let settled = async { self.home_of(conversation).await?.settle(conversation).await };
        match settled.await {
            Ok(Some(TurnOutcome::Answered(_))) => tracing::info!(%conversation, "turn finished"),
            // Somebody is at it, or waits for a person, or has it by now.
            Ok(_)
            | Err(
                TurnError::Busy(_) | TurnError::Lost | TurnError::Stopped | TurnError::ShuttingDown,
            ) => {}
            Err(error) => {
                tracing::warn!(%conversation, error = error_chain(&error), "turn not finished");
            }
        }
    }
}
