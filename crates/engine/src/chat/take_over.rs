//! Turns that were cut short.

use yai_agentkit_core::{Error, Fence, Message, Result, Turn, TurnStatus, turn::TurnChange};

use super::{Chat, EventLog, ended, is_unavailable, log_of};
use crate::{TurnError, TurnEvent, TurnOutcome, error_chain};

impl Chat {
    /// Takes over a running turn, and finishes it.
    pub(super) async fn take_over(&mut self, turn: Turn) -> Result<TurnOutcome, TurnError> {
        let (owner, lease) = (self.engine.owner, self.engine.limits.lease);
        let taken = self.turns().take(&turn, owner, lease).await;
        let mut turn = taken?.ok_or(TurnError::Busy(self.conversation.id))?;
        self.announce_next().await?;
        let excused = self.engine.excuses.of(turn.id);
        turn.attempt = turn.attempt.saturating_sub(excused).max(1);
        tracing::info!(
            turn = %turn.id,
            conversation = %self.conversation.id,
            attempt = turn.attempt,
            "finishing a turn"
        );
        let seen = turn.clone();
        match self.finish(turn).await {
            // What can't be read or written may never be: no other attempt will end it.
            Err(TurnError::Storage(error))
                if !matches!(error, Error::Unavailable { .. })
                    && seen.attempt > self.engine.limits.max_attempts =>
            {
                Err(self.abandon(&seen, error).await)
            }
            finished => finished,
        }
    }

    /// Finishes a turn that was taken over.
    async fn finish(&mut self, turn: Turn) -> Result<TurnOutcome, TurnError> {
        let fence = match self.prepare(&turn).await {
            Ok(fence) => fence,
            failed => {
                if is_unavailable(&failed) {
                    self.engine.excuses.excuse(turn.id);
                }
                failed?
            }
        };
        if let Some(answer) = self.stored_answer(&turn).await? {
            self.set_running(false);
            let log = log_of(&mut self.log);
            let mut batch = log.completed(&self.state, &self.state);
            batch.push(TurnEvent::Answered {
                answer: answer.clone(),
            });
            let ended = ended(&turn, TurnStatus::Completed, None);
            let (events, unpublished) = log.stage(batch);
            let end = TurnChange::new(turn, ended).with_events(events);
            let completed = self.turns().change(end).await;
            completed.map_err(TurnError::of_owner)?;
            unpublished.publish();
            return Ok(TurnOutcome::Answered(answer));
        }
        if self.state.answering != Some(turn.user_message_id) {
            return Err(self.fail_with(turn, TurnError::ForeignState, fence).await);
        }
        if turn.attempt > self.engine.limits.max_attempts {
            let reason = TurnError::TooManyAttempts(self.engine.limits.max_attempts);
            return Err(self.fail(turn, reason).await);
        }
        self.run(turn).await
    }

    /// Makes sure that nobody else writes for the turn, and reads what is left of it.
    async fn prepare(&mut self, turn: &Turn) -> Result<Fence, TurnError> {
        let checkpointer = self.engine.storage.checkpointer();
        let thread_id = self.conversation.thread_id();
        let fence = match checkpointer.raise_epoch(&thread_id, turn.epoch).await {
            // From now on nobody writes to the thread but us.
            Ok(()) => Fence::Hold(turn.epoch),
            // There is no thread any more.
            Err(Error::Fenced { epoch, .. }) if epoch < turn.epoch => Fence::Raise(turn.epoch),
            Err(error) => return Err(TurnError::of_owner(error)),
        };
        self.read(&*checkpointer).await?;
        let subscriptions = self.engine.subscriptions.clone();
        let resumed = EventLog::resume(subscriptions, &*self.turns(), turn, &self.state).await;
        self.log = Some(resumed.map_err(TurnError::of_owner)?);
        // Its attempts are stored with that.
        self.engine.excuses.forget(turn.id);
        Ok(fence)
    }

    /// Ends a turn of which the storage takes nothing else any more.
    async fn abandon(&mut self, turn: &Turn, error: Error) -> TurnError {
        tracing::error!(turn = %turn.id, error = error_chain(&error), "turn given up");
        let reason = TurnError::TooManyAttempts(self.engine.limits.max_attempts);
        let failed = ended(turn, TurnStatus::Failed, Some(reason.to_string()));
        let failed = TurnChange::new(turn.clone(), failed);
        match self.turns().change(failed).await {
            Ok(_) => reason,
            Err(error) => TurnError::of_owner(error),
        }
    }

    async fn stored_answer(&self, turn: &Turn) -> Result<Option<Message>> {
        let messages = self.engine.storage.messages();
        let answer = turn.answer_id();
        messages.get(&turn.conversation_id.key(answer)).await
    }
}
