//! A turn that this engine owns, step by step to its end.

use std::{sync::Arc, time::Duration};

use serde_json::Value as Json;
use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument;
use yai_agentkit_core::{
    CheckpointId, Entity, Fence, Message, Result, Role, Turn, TurnStatus,
    checkpoint::CheckpointSource,
    turn::{Interrupt, TurnChange, TurnStep},
    validate,
};

use super::{Chat, closed, ended, is_unavailable, log_of};
use crate::{
    ClientInput, TurnError, TurnEvent, TurnOutcome,
    agent::{AgentError, AgentState, ChatMessage, Step, ToolCall},
    claims::Claim,
};

/// What one step has led to.
pub(crate) enum Progress {
    Checkpoint(AgentState),
    /// With the agent's own state.
    Answer(String, Json),
    /// A tool wants the answer of a person first, or is for the client to run.
    Ask(Interrupt),
}

impl Chat {
    /// Goes on with a turn that this engine owns, to its end.
    pub(crate) async fn run(&mut self, turn: Turn) -> Result<TurnOutcome, TurnError> {
        let id = turn.id;
        // A server that knows more may have written meanwhile.
        if let Err(error) = self.check_state() {
            self.give_back(turn).await?;
            return Err(error);
        }
        let ran = self.run_steps(turn).await;
        if is_unavailable(&ran) {
            self.engine.excuses.excuse(id);
        }
        ran
    }

    async fn run_steps(&mut self, turn: Turn) -> Result<TurnOutcome, TurnError> {
        self.deadline = Some(Instant::now() + self.engine.limits.deadline);
        self.set_running(true);
        self.state.client = Arc::new(ClientInput::of(&turn)?);
        loop {
            if self.engine.is_stopping() {
                self.give_back(turn).await?;
                return Err(TurnError::Stopped);
            }
            let progress = match self.time_left() {
                None => Err(TurnError::TooLong(self.engine.limits.deadline.as_secs())),
                Some(left) => {
                    let given_up = given_up(self.claim.as_ref());
                    let late = TurnError::TooLong(self.engine.limits.deadline.as_secs());
                    tokio::select! {
                        step = tokio::time::timeout(left, self.step(&turn)) => {
                            step.unwrap_or(Err(late))
                        }
                        () = given_up => Err(TurnError::Lost),
                    }
                }
            };
            match progress {
                Ok(Progress::Checkpoint(state)) => {
                    let recorded = self.record_step(&turn, state).await;
                    recorded.map_err(TurnError::of_owner)?;
                }
                Ok(Progress::Answer(answer, own)) => {
                    return self.complete(turn, answer, own).await;
                }
                Ok(Progress::Ask(interrupt)) => return self.wait(turn, interrupt).await,
                Err(error) if error.ends_turn() => return Err(self.fail(turn, error).await),
                Err(error) => return Err(error),
            }
        }
    }

    async fn record_step(&mut self, turn: &Turn, state: AgentState) -> Result<()> {
        let log = log_of(&mut self.log);
        let batch = log.stepped(&self.state, &state);
        let (message, epoch) = (turn.user_message_id, turn.epoch);
        let checkpointer = self.engine.storage.checkpointer();
        let (source, id) = (CheckpointSource::Loop, Some(turn.id));
        let staged = self.stage(&*checkpointer, state, source, message, epoch, id);
        let (checkpoint, staged) = staged.await?;
        let log = log_of(&mut self.log);
        let (events, unpublished) = log.stage_with(&batch, &staged.thread);
        let step = TurnStep::new(epoch, checkpoint, events);
        self.turns().step(step).await?;
        self.stored(staged);
        unpublished.publish();
        Ok(())
    }

    /// One step: the tools that are due, else a decision of the agent.
    async fn step(&mut self, turn: &Turn) -> Result<Progress, TurnError> {
        let agent = self.agent()?;
        let calls = self.state.open_tool_calls();
        if !calls.is_empty() {
            return self.run_tools(turn, &calls).await;
        }
        let mut state = self.state.clone();
        if steps_taken(&state) >= self.engine.limits.max_steps {
            return Err(TurnError::TooManySteps(self.engine.limits.max_steps));
        }
        let (context, said) = self.context(turn).heard();
        let (context, _alive) = context.alive();
        let turns = self.turns();
        let mut agents = state.clone();
        let step = guarded(async move {
            let step = agent.step(&context, &mut agents).await;
            (step, agents.own)
        });
        let step = log_of(&mut self.log)
            .publish_during(&*turns, said, step)
            .await;
        let (step, own) = step.map_err(TurnError::of_owner)??;
        let step = step?;
        let (content, tool_calls) = match step {
            Step::ToolCalls { content, calls } => (content, bounded(calls)?),
            Step::Ask(question) => (String::new(), vec![question_call(&state, question)]),
            Step::Answer(answer) => return Ok(Progress::Answer(answer, own)),
        };
        state.own = own;
        state.messages.push(ChatMessage {
            tool_calls,
            ..ChatMessage::new(Role::Assistant, content)
        });
        Ok(Progress::Checkpoint(state))
    }

    async fn complete(
        &mut self,
        turn: Turn,
        answer: String,
        own: Json,
    ) -> Result<TurnOutcome, TurnError> {
        // PostgreSQL can't store a NUL, and an answer that can't be stored would come back at
        // every resume.
        let answer = answer.replace('\0', "\u{fffd}");
        let mut state = self.state.clone();
        state
            .messages
            .push(ChatMessage::new(Role::Assistant, answer.as_str()));
        state.own = own;
        state.answering = None;
        let (id, now) = (turn.answer_id(), self.engine.clock.now());
        let mut message = Message::with_id(id, self.conversation.id, Role::Assistant, answer, now);
        message.parent_id = Some(turn.user_message_id);
        let batch = log_of(&mut self.log).completed(&self.state, &state);
        let hold = Fence::Hold(turn.epoch);
        let ended = ended(&turn, TurnStatus::Completed, None);
        let end = TurnChange::new(turn, ended).with_answer(Some(message.clone()));
        message.checkpoint_id = Some(self.end(end, state, batch, hold).await?);
        Ok(TurnOutcome::Answered(message))
    }

    /// Stores the end of a turn, with its last state, and returns the checkpoint.
    async fn end(
        &mut self,
        mut change: TurnChange,
        state: AgentState,
        mut batch: Vec<TurnEvent>,
        fence: Fence,
    ) -> Result<CheckpointId, TurnError> {
        let turn = &change.seen;
        let last_message = match &change.answer {
            Some(answer) => answer.id,
            None => turn.user_message_id,
        };
        let (source, id) = (CheckpointSource::Loop, Some(turn.id));
        let checkpointer = self.engine.storage.checkpointer();
        let staged = self.stage(
            &*checkpointer,
            state,
            source,
            last_message,
            fence.epoch(),
            id,
        );
        let (checkpoint, staged) = staged.await?;
        let id = checkpoint.checkpoint.id.clone();
        if let Some(answer) = &mut change.answer {
            answer.checkpoint_id = Some(id.clone());
            let answer = answer.clone();
            batch.push(TurnEvent::Answered { answer });
        }
        let (events, unpublished) = self.log().stage(batch);
        let change = change
            .with_checkpoint(checkpoint, fence)
            .with_events(events);
        self.set_running(false);
        let ended = self.turns().change(change).await;
        ended.map_err(TurnError::of_owner)?;
        self.stored(staged);
        unpublished.publish();
        Ok(id)
    }

    /// Ends the turn because of `reason`, which is returned unless the storage fails as well.
    pub(super) async fn fail(&mut self, turn: Turn, reason: TurnError) -> TurnError {
        let hold = Fence::Hold(turn.epoch);
        self.fail_with(turn, reason, hold).await
    }

    pub(super) async fn fail_with(
        &mut self,
        turn: Turn,
        reason: TurnError,
        fence: Fence,
    ) -> TurnError {
        let error = reason.to_string().replace('\0', "\u{fffd}");
        let ended = ended(&turn, TurnStatus::Failed, Some(error.clone()));
        let end = TurnEvent::Failed {
            reason: error,
            is_unavailable: matches!(reason, TurnError::Agent(AgentError::Unavailable { .. })),
        };
        let state = closed(self.state.clone(), "the turn has failed");
        let batch = log_of(&mut self.log).given_up(&self.state, &state, end);
        let failed = TurnChange::new(turn, ended);
        match self.end(failed, state, batch, fence).await {
            Ok(_) => reason,
            Err(error) => error,
        }
    }

    /// Lets another server go on with the turn at once.
    async fn give_back(&self, turn: Turn) -> Result<(), TurnError> {
        let given_back = turn.clone().with(|turn| turn.lease_owner = None);
        let given_back = self.turns().change(TurnChange::new(turn, given_back)).await;
        given_back.map(drop).map_err(TurnError::of_owner)
    }

    fn time_left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        deadline.checked_duration_since(Instant::now())
    }
}

fn given_up(claim: Option<&Claim>) -> impl Future<Output = ()> + use<> {
    let given_up = claim.map(Claim::given_up);
    async {
        match given_up {
            Some(given_up) => given_up.await,
            None => std::future::pending().await,
        }
    }
}

/// The agent's part, in a task of its own, so that work that does not yield holds up neither the
/// deadline nor a cancellation; it ends with this call. A bug there must not leave a turn that panics
/// again at every resume.
pub(crate) async fn guarded<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, TurnError> {
    let mut task = JoinSet::new();
    task.spawn(work.in_current_span());
    let outcome = task.join_next().await;
    outcome.and_then(Result::ok).ok_or(TurnError::AgentCrashed)
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

fn question_call(state: &AgentState, question: String) -> ToolCall {
    // Messages are only ever appended, so their number makes an id that no other call has.
    ToolCall::question(format!("ask_{}", state.messages.total()), question)
}

/// Refuses arguments that could not be read back within what is stored around them: the state, and
/// the events that tell it.
fn bounded(calls: Vec<ToolCall>) -> Result<Vec<ToolCall>, TurnError> {
    const AROUND: usize = 20;
    let depth = validate::MAX_DEPTH - AROUND;
    let mut too_deep = calls
        .iter()
        .filter(|call| validate::is_deeper(&call.arguments, depth));
    if let Some(call) = too_deep.next() {
        let reason = format!(
            "the arguments of {} are nested deeper than {depth} levels",
            call.name
        );
        return Err(TurnError::Agent(AgentError::Refused {
            reason,
            source: None,
        }));
    }
    Ok(calls)
}
