//! The messages that wait for the turns before them.

use std::time::Duration;

use tracing::Instrument;
use yai_agentkit_core::{
    ConversationId, Entity, Error, ListQuery, Turn, TurnId, TurnStatus, turn::TurnFilter,
};

use super::{TurnEngine, TurnError, TurnOutcome, lease::RENEWALS, send::Incoming};
use crate::error_chain;

/// How often one looks where nobody notifies: [`TurnEngine::keep`] does.
const LOOK: Duration = Duration::from_millis(100);

impl TurnEngine {
    /// Stores a message, and the turn that answers it after those before it.
    pub(super) async fn enqueue(&self, incoming: &Incoming) -> Result<(), TurnError> {
        let message = &incoming.message;
        let conversation = message.conversation_id;
        let (id, now) = (incoming.turn_id, self.clock.now());
        let turn = Turn::with_id(id, conversation, message.id, now).with(|turn| {
            turn.status = TurnStatus::Queued;
            turn.started_at = None;
            turn.input = incoming.input.stored();
        });
        // One after the other, so that each counts those before it.
        let entry = self.enqueuing.enter(conversation.0).await;
        let unit = self.storage.begin().await?;
        // First: of a request that was faster, the answer counts and not that the queue is full.
        incoming.store(&*unit, message.clone()).await?;
        let queued = TurnFilter::queued().of(conversation);
        if unit.turns().count(&queued).await? >= self.limits.max_enqueued {
            return Err(TurnError::QueueFull(self.limits.max_enqueued));
        }
        unit.turns().add(turn).await?;
        unit.commit().await?;
        drop(entry);
        incoming.is_stored(incoming.turn_id);
        self.work_off(conversation);
        Ok(())
    }

    /// Begins what waits in a conversation as soon as it can, in a task of its own, whoever of
    /// those that sent it is still there.
    fn work_off(&self, conversation: ConversationId) {
        // One such task a conversation, and one behind it: the first may just have seen that
        // nothing waits.
        let Some(next) = self.next_to_work_off.try_enter(conversation.0) else {
            return;
        };
        let engine = self.clone();
        let work = async move {
            let _entry = engine.working_off.enter(conversation.0).await;
            drop(next);
            loop {
                let error = match engine.settle(conversation).await {
                    // Who has the answer to its question goes on with it.
                    Ok(Some(TurnOutcome::Waiting(turn))) => {
                        engine.until_changed(&turn).await;
                        continue;
                    }
                    Ok(_) => return,
                    Err(error) => error,
                };
                match error {
                    TurnError::Busy(_) | TurnError::Lost => engine.until_free(conversation).await,
                    TurnError::Storage(Error::Unavailable { .. }) => {
                        tokio::time::sleep(engine.look()).await;
                    }
                    error if error.ends_turn() => {}
                    TurnError::ShuttingDown | TurnError::Stopped => return,
                    error => {
                        let error = error_chain(&error);
                        tracing::warn!(%conversation, error, "messages that wait not answered");
                        return;
                    }
                }
            }
        };
        tokio::spawn(work.in_current_span());
    }

    /// Waits for what a turn comes to, whoever runs it.
    pub(super) async fn outcome(
        &self,
        conversation: ConversationId,
        id: TurnId,
    ) -> Result<TurnOutcome, TurnError> {
        let mut subscription = self.subscriptions.subscribe(conversation, id);
        loop {
            let turn = self.turn(conversation, id).await?;
            match turn.status {
                TurnStatus::Completed => {
                    let id = turn.answer_id();
                    let messages = self.storage.messages();
                    let answer = messages.get(&conversation.key(id)).await?;
                    let answer = answer.ok_or_else(|| Error::not_found("message", id))?;
                    return Ok(TurnOutcome::Answered(answer));
                }
                TurnStatus::Failed => {
                    return Err(TurnError::Failed(turn.error.unwrap_or_default()));
                }
                TurnStatus::Cancelled => return Err(TurnError::Cancelled),
                TurnStatus::Waiting => return Ok(TurnOutcome::Waiting(Box::new(turn))),
                _ if self.is_stopping() => return Err(TurnError::Stopped),
                _ => {}
            }
            let is_notified = tokio::select! {
                notified = tokio::time::timeout(self.look(), subscription.progress.changed()) => notified.is_ok(),
                () = self.stopped() => false,
            };
            if !is_notified
                && !self.subscriptions.is_kept()
                && !self.claims.is_claimed(conversation)
            {
                // Nobody else takes over what was left. Of this turn or of one before it: what
                // was stored says.
                match self.settle(conversation).await {
                    Err(error @ TurnError::Storage(Error::Unavailable { .. })) => {
                        return Err(error);
                    }
                    resumed => drop(resumed),
                }
            }
        }
    }

    /// Waits until the conversation may be free.
    pub(super) async fn until_free(&self, conversation: ConversationId) {
        if self.claims.is_claimed(conversation) {
            return self.claims.free(conversation).await;
        }
        let running = ListQuery::filtered(TurnFilter::running().of(conversation));
        match self.storage.turns().list(&running).await {
            Ok(page) => match page.items.first() {
                Some(turn) => self.until_changed(turn).await,
                // It has ended meanwhile, or there is one that asks.
                None => tokio::time::sleep(LOOK).await,
            },
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }

    /// Waits until a turn is not as it was, or may have been left.
    async fn until_changed(&self, seen: &Turn) {
        let mut subscription = self.subscriptions.subscribe(seen.conversation_id, seen.id);
        loop {
            let turn = self.storage.turns().get(&seen.id()).await;
            if turn.is_ok_and(|turn| turn.is_none_or(|turn| turn.status != seen.status)) {
                return;
            }
            tokio::select! {
                notified = tokio::time::timeout(self.look(), subscription.progress.changed()) => {
                    if notified.is_err() {
                        return;
                    }
                }
                () = self.stopped() => return,
            }
        }
    }

    /// How long one waits to be notified before one looks: not long where nobody does.
    fn look(&self) -> Duration {
        if self.subscriptions.is_kept() {
            (self.limits.lease / RENEWALS).max(LOOK)
        } else {
            LOOK
        }
    }
}
