//! What begins: a turn, at once or after it has waited, and an instruction.

use yai_agentkit_core::{
    Entity, Error, Fence, Message, MessageId, Result, Turn, TurnStatus, TurnStore,
    checkpoint::CheckpointSource,
    turn::{IdempotencyKey, Place, TurnBegin},
};

use super::{Chat, EventLog, Staged};
use crate::{TurnError, TurnOutcome, agent::AgentState, log::Unpublished, send::Incoming};

impl Chat {
    /// Finishes the turns that were cut short and those that wait, and returns what the last one
    /// has come to.
    /// [`TurnError::Busy`] where somebody else has the turn.
    pub(crate) async fn settle(&mut self) -> Result<Option<TurnOutcome>, TurnError> {
        let mut outcome = None;
        let mut unfinished = std::mem::take(&mut self.unfinished);
        // A turn that runs goes before those that wait.
        unfinished.sort_by_key(|turn| turn.status == TurnStatus::Queued);
        for turn in unfinished {
            outcome = Some(match turn.status {
                TurnStatus::Running => self.take_over(turn).await?,
                TurnStatus::Queued => self.begin_queued(turn).await?,
                _ => TurnOutcome::Waiting(Box::new(turn)),
            });
            if let Some(TurnOutcome::Waiting(_)) = outcome {
                break;
            }
        }
        Ok(outcome)
    }

    /// Stores the user's message and the turn that is to answer it. An error of the storage; or
    /// [`Error::Fenced`], or [`Error::Conflict`] of the turn, where somebody else was faster.
    pub(crate) async fn begin(&mut self, incoming: &Incoming) -> Result<Turn> {
        let (message, place) = (&incoming.message, incoming.place());
        let (id, now) = (incoming.turn_id, self.engine.clock.now());
        let new = Turn::with_id(id, self.conversation.id, message.id, now);
        let turn = self.owned(new).with(|turn| {
            turn.input = incoming.input.stored_beside(&self.state.own);
            if place == Place::Stored {
                // The first answer has the other id.
                turn.assistant_message_id = Some(MessageId::new());
            }
        });
        let message = message.clone();
        let (turn, staged, unpublished) = if incoming.is_announced() {
            let unit = self.engine.storage.begin().await?;
            incoming.use_key(&*unit).await?;
            let turns = unit.turn_store();
            let begun = self.begin_turn(&*turns, turn, message, place, None).await?;
            unit.commit().await?;
            begun
        } else {
            let (turns, key) = (self.turns(), incoming.key.clone());
            self.begin_turn(&*turns, turn, message, place, key).await?
        };
        self.stored(staged);
        unpublished.publish();
        incoming.is_stored(turn.id);
        Ok(turn)
    }

    /// Stores an instruction to the agent; nothing is answered. Errors as [`begin`](Self::begin).
    pub(crate) async fn instruct(&mut self, incoming: &Incoming) -> Result<Message> {
        let message = &incoming.message;
        let mut state = self.state.clone();
        state.hear(message);
        self.prepare_own(&mut state);
        let unit = self.engine.storage.begin().await?;
        let epoch = self.next_epoch();
        let checkpointer = unit.checkpointer();
        let source = CheckpointSource::Update;
        let staged = self.stage(&*checkpointer, state, source, message.id, epoch, None);
        let (checkpoint, staged) = staged.await?;
        let message = message.clone().with(|message| {
            message.parent_id = self.last_message;
            message.checkpoint_id = Some(checkpoint.checkpoint.id.clone());
        });
        let stored = incoming.store(&*unit, message).await?;
        let raise = Fence::Raise(epoch);
        checkpointer.put(checkpoint, raise.into()).await?;
        unit.commit().await?;
        self.stored(staged);
        Ok(stored)
    }

    /// Makes the agent's own state what the agent reads in it. One that it can't read fails the turn
    /// where it is used.
    fn prepare_own(&self, state: &mut AgentState) {
        if let Ok(agent) = self.agent()
            && let Ok(own) = agent.own(state.own.clone())
        {
            state.own = own;
        }
    }

    /// Begins a turn that has waited, and runs it to its end.
    async fn begin_queued(&mut self, queued: Turn) -> Result<TurnOutcome, TurnError> {
        let messages = self.engine.storage.messages();
        let message = messages
            .get(&queued.conversation_id.key(queued.user_message_id))
            .await?;
        let message = message.ok_or_else(|| Error::not_found("message", queued.user_message_id))?;
        let running = self.owned(queued.clone()).with(|turn| {
            turn.status = TurnStatus::Running;
            turn.started_at = Some(self.engine.clock.now());
        });
        let turns = self.turns();
        let begun = self.begin_queued_turn(&*turns, running, message, queued);
        let (turn, staged, unpublished) = begun.await.map_err(TurnError::of_owner)?;
        self.stored(staged);
        unpublished.publish();
        self.announce_next().await?;
        self.run(turn).await
    }

    /// What is staged and to be published is stored when `turns` are.
    async fn begin_turn(
        &mut self,
        turns: &dyn TurnStore,
        turn: Turn,
        message: Message,
        place: Place,
        key: Option<IdempotencyKey>,
    ) -> Result<(Turn, Staged, Unpublished)> {
        let (mut begin, staged, unpublished) = self.stage_begin(turn, message, place).await?;
        begin.key = key;
        Ok((turns.begin(begin).await?, staged, unpublished))
    }

    async fn begin_queued_turn(
        &mut self,
        turns: &dyn TurnStore,
        turn: Turn,
        message: Message,
        queued: Turn,
    ) -> Result<(Turn, Staged, Unpublished)> {
        let staged = self.stage_begin(turn, message, Place::Last).await?;
        let (mut begin, staged, unpublished) = staged;
        begin.queued = Some(queued);
        Ok((turns.begin(begin).await?, staged, unpublished))
    }

    async fn stage_begin(
        &mut self,
        turn: Turn,
        mut message: Message,
        place: Place,
    ) -> Result<(TurnBegin, Staged, Unpublished)> {
        let mut state = self.base();
        state.hear(&message);
        state.answering = Some(message.id);
        self.prepare_own(&mut state);
        let subscriptions = self.engine.subscriptions.clone();
        let log = self.log.insert(EventLog::new(subscriptions, &turn));
        let batch = log.started(&state);
        let (events, unpublished) = log.stage(batch);
        let (source, epoch) = (CheckpointSource::Input, turn.epoch);
        let checkpointer = self.engine.storage.checkpointer();
        let id = Some(turn.id);
        let staged = self.stage(&*checkpointer, state, source, message.id, epoch, id);
        let (checkpoint, staged) = staged.await?;
        if place != Place::Stored {
            message.parent_id = self.last_message;
            message.checkpoint_id = Some(checkpoint.checkpoint.id.clone());
        }
        let mut begin = TurnBegin::new(turn, message, checkpoint, events);
        begin.place = place;
        Ok((begin, staged, unpublished))
    }
}
