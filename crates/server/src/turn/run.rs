use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use yai_agentkit_core::{
    CheckpointMetadata, CheckpointSource, Checkpointer, Conversation, ConversationId, Error,
    ListQuery, Message, MessageId, Result, Role, ThreadState, Turn, TurnFilter, TurnStatus,
};

use super::{MESSAGE_ID, TurnEngine, TurnError};
use crate::agent::{AgentState, ChatMessage, Step};

/// A claimed conversation with its agent's state, for one piece of work: after an error of the
/// storage its view may be wrong.
pub(super) struct Chat {
    engine: TurnEngine,
    conversation: Conversation,
    unfinished: Option<Turn>,
    thread: ThreadState,
    state: AgentState,
}

/// What one step has led to.
enum Progress {
    Checkpoint(AgentState),
    Answer(String),
}

impl Chat {
    pub(super) async fn open(engine: TurnEngine, id: ConversationId) -> Result<Self, TurnError> {
        let (conversations, turns) = (engine.storage.conversations(), engine.storage.turns());
        let unfinished = ListQuery::filtered(TurnFilter::running().of(id)).limit(1);
        let (conversation, unfinished) =
            tokio::try_join!(conversations.get(&id), turns.list(&unfinished))?;
        let conversation = conversation.ok_or_else(|| Error::not_found("conversation", id))?;
        let checkpointer = engine.storage.checkpointer();
        let thread = ThreadState::load(&*checkpointer, conversation.thread_id()).await?;
        let state = thread.state()?.unwrap_or_default();
        Ok(Self {
            engine,
            conversation,
            unfinished: unfinished.items.into_iter().next(),
            thread,
            state,
        })
    }

    /// Finishes the turn that was cut short, if there is one.
    pub(super) async fn finish(&mut self) -> Result<Option<Message>, TurnError> {
        let Some(turn) = self.unfinished.take() else {
            return Ok(None);
        };
        tracing::info!(turn = %turn.id, conversation = %self.conversation.id, "finishing a turn");
        if let Some(answer) = self.stored_answer(&turn).await? {
            self.engine
                .storage
                .turns()
                .update(ended(turn, TurnStatus::Completed, None))
                .await?;
            return Ok(Some(answer));
        }
        if self.state.answering != Some(turn.user_message_id) {
            return Err(self.fail(turn, TurnError::ForeignState).await);
        }
        self.run(turn).await.map(Some)
    }

    /// Stores the user's `message` and answers it.
    pub(super) async fn answer(&mut self, message: Message) -> Result<Message, TurnError> {
        let turn = Turn::new(self.conversation.id, message.id);
        let mut state = self.state.clone();
        state
            .messages
            .push(ChatMessage::new(Role::User, message.content.as_str()));
        state.answering = Some(message.id);

        let unit = self.engine.storage.begin().await?;
        unit.messages().add(message).await?;
        let turn = unit.turns().add(turn).await?;
        self.save(
            &*unit.checkpointer(),
            state,
            CheckpointSource::Input,
            turn.user_message_id,
            Some(&turn),
        )
        .await?;
        unit.commit().await?;
        self.run(turn).await
    }

    /// Stores an instruction to the agent; nothing is answered.
    pub(super) async fn instruct(&mut self, message: Message) -> Result<Message, TurnError> {
        let mut state = self.state.clone();
        state.messages.push(ChatMessage::new(
            message.role.clone(),
            message.content.as_str(),
        ));
        let unit = self.engine.storage.begin().await?;
        let message = unit.messages().add(message).await?;
        self.save(
            &*unit.checkpointer(),
            state,
            CheckpointSource::Update,
            message.id,
            None,
        )
        .await?;
        unit.commit().await?;
        Ok(message)
    }

    async fn run(&mut self, turn: Turn) -> Result<Message, TurnError> {
        loop {
            if self.engine.is_stopping() {
                return Err(TurnError::Interrupted);
            }
            match self.step().await {
                Ok(Progress::Checkpoint(state)) => {
                    let checkpointer = self.engine.storage.checkpointer();
                    self.save(
                        &*checkpointer,
                        state,
                        CheckpointSource::Loop,
                        turn.user_message_id,
                        Some(&turn),
                    )
                    .await?;
                }
                Ok(Progress::Answer(answer)) => return self.complete(turn, answer).await,
                Err(error) => return Err(self.fail(turn, error).await),
            }
        }
    }

    /// One step: a tool that is due, else a decision of the agent.
    async fn step(&self) -> Result<Progress, TurnError> {
        let agent = &self.engine.agent;
        let mut state = self.state.clone();
        if let Some(call) = state.open_tool_calls().into_iter().next() {
            let before = state.clone();
            let result = match guarded(agent.run_tool(&call, &mut state)).await {
                Ok(result) => result,
                // Models refuse a history in which a call has no result.
                Err(_) => {
                    state = before;
                    "the tool crashed".to_owned()
                }
            };
            state.messages.push(ChatMessage {
                tool_call_id: Some(call.id),
                ..ChatMessage::new(Role::Tool, result)
            });
            return Ok(Progress::Checkpoint(state));
        }
        if steps_taken(&state) >= self.engine.max_steps {
            return Err(TurnError::TooManySteps(self.engine.max_steps));
        }
        match guarded(agent.step(&state, &crate::agent::Deltas::ignored())).await?? {
            Step::ToolCalls { content, calls } => {
                state.messages.push(ChatMessage {
                    tool_calls: calls,
                    ..ChatMessage::new(Role::Assistant, content)
                });
                Ok(Progress::Checkpoint(state))
            }
            Step::Answer(answer) => Ok(Progress::Answer(answer)),
        }
    }

    async fn complete(&mut self, turn: Turn, answer: String) -> Result<Message, TurnError> {
        // PostgreSQL can't store a NUL, and an answer that can't be stored would come back at
        // every resume.
        let answer = answer.replace('\0', "\u{fffd}");
        let mut state = self.state.clone();
        state
            .messages
            .push(ChatMessage::new(Role::Assistant, answer.as_str()));
        state.answering = None;
        let mut message = Message::new(self.conversation.id, Role::Assistant, answer);
        message.id = turn.user_message_id.answer();

        let unit = self.engine.storage.begin().await?;
        let message = match unit.messages().add(message).await {
            // Another process was faster with the same turn.
            Err(conflict @ Error::Conflict { .. }) => {
                drop(unit);
                let stored = self.stored_answer(&turn).await?;
                return stored.ok_or(conflict.into());
            }
            added => added?,
        };
        self.save(
            &*unit.checkpointer(),
            state,
            CheckpointSource::Loop,
            message.id,
            Some(&turn),
        )
        .await?;
        unit.turns()
            .update(ended(turn, TurnStatus::Completed, None))
            .await?;
        unit.commit().await?;
        Ok(message)
    }

    /// Ends the turn because of `reason`, which is returned unless the storage fails as well.
    async fn fail(&mut self, turn: Turn, reason: TurnError) -> TurnError {
        match self.record_failure(turn, &reason).await {
            Ok(()) => reason,
            Err(error) => error.into(),
        }
    }

    async fn record_failure(&mut self, turn: Turn, reason: &TurnError) -> Result<()> {
        let state = AgentState {
            answering: None,
            ..self.state.clone()
        };
        let unit = self.engine.storage.begin().await?;
        self.save(
            &*unit.checkpointer(),
            state,
            CheckpointSource::Loop,
            turn.user_message_id,
            Some(&turn),
        )
        .await?;
        let error = reason.to_string().replace('\0', "\u{fffd}");
        unit.turns()
            .update(ended(turn, TurnStatus::Failed, Some(error)))
            .await?;
        unit.commit().await
    }

    /// `last_message` is the last message of the conversation that the state knows.
    async fn save(
        &mut self,
        checkpointer: &dyn Checkpointer,
        state: AgentState,
        source: CheckpointSource,
        last_message: MessageId,
        turn: Option<&Turn>,
    ) -> Result<()> {
        let mut metadata = CheckpointMetadata::new(source, self.thread.next_step())
            .with(MESSAGE_ID, last_message.to_string());
        if let Some(turn) = turn {
            metadata = metadata.with("run_id", turn.id.to_string());
        }
        self.thread.save(checkpointer, &state, metadata).await?;
        self.state = state;
        Ok(())
    }

    async fn stored_answer(&self, turn: &Turn) -> Result<Option<Message>> {
        let messages = self.engine.storage.messages();
        messages.get(&turn.user_message_id.answer()).await
    }
}

/// The agent's part; a bug there must not leave a turn that panics again at every resume.
async fn guarded<T>(work: impl Future<Output = T>) -> Result<T, TurnError> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.map_err(|_| TurnError::AgentCrashed)
}

/// How often the agent has decided since the user spoke.
fn steps_taken(state: &AgentState) -> usize {
    let of_this_turn = state
        .messages
        .iter()
        .rev()
        .take_while(|message| message.role != Role::User);
    of_this_turn
        .filter(|message| message.role == Role::Assistant)
        .count()
}

fn ended(turn: Turn, status: TurnStatus, error: Option<String>) -> Turn {
    Turn {
        status,
        error,
        ..turn
    }
}
