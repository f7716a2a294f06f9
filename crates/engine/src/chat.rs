use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument;
use yai_agentkit_core::{
    CheckpointMetadata, CheckpointSelector, CheckpointSource, CheckpointTuple, Checkpointer,
    Conversation, Error, Fence, ListQuery, Message, MessageId, PendingWrite, Result, Role,
    ThreadState, Turn, TurnChange, TurnFilter, TurnId, TurnStatus, Values, now, validate,
};

use super::{Claim, MESSAGE_ID, TurnEngine, TurnError, TurnEvent, log::EventLog, send::Incoming};
use crate::{
    agent::{AgentError, AgentState, ChatMessage, Deltas, Step, ToolCall},
    error_chain,
};

/// The field of a checkpoint's metadata that holds the epoch with which it was written.
const EPOCH: &str = "epoch";

/// The channel of the messages.
const MESSAGES: &str = "messages";

/// What a chat is opened with: of its lists the newest items.
const LISTS: [&str; 2] = [MESSAGES, "instructions"];
const FIELDS: [&str; 2] = ["facts", "answering"];
/// At least 73 of each.
const DEPTH: usize = 2;

/// The tool call by which an agent that asks a person waits for the answer.
pub(super) const ASK: &str = "ask";

/// A claimed conversation with its agent's state, for one piece of work: after an error of the
/// storage its view may be wrong.
pub(super) struct Chat {
    pub(super) engine: TurnEngine,
    claim: Option<Claim>,
    pub(super) conversation: Conversation,
    /// Oldest first.
    unfinished: Vec<Turn>,
    pub(super) thread: ThreadState,
    pub(super) state: AgentState,
    /// What the tools of the step under way have recorded.
    pub(super) writes: Vec<PendingWrite>,
    /// What the turn under way tells.
    pub(super) log: Option<EventLog>,
    /// The greatest epoch that the thread is known to have had.
    epoch: u64,
    /// The message that waits for what is unfinished.
    pub(super) next: Option<Arc<Incoming>>,
}

/// A state to be saved, and with what.
struct Checkpointed {
    state: AgentState,
    source: CheckpointSource,
    /// The last message of the conversation that the state knows.
    last_message: MessageId,
    fence: Fence,
}

/// What one step has led to.
enum Progress {
    Checkpoint(AgentState),
    Answer(String),
}

impl Chat {
    /// `epoch` is one that the thread is known to have. It must have been known before: what is
    /// read here is newer.
    pub(super) async fn open(
        engine: TurnEngine,
        claim: Claim,
        epoch: u64,
    ) -> Result<Self, TurnError> {
        let id = claim.conversation_id();
        let (conversations, turns) = (engine.storage.conversations(), engine.storage.turns());
        let unfinished = ListQuery::filtered(TurnFilter::unfinished().of(id)).oldest_first();
        let mut head = None;
        loop {
            let (conversation, unfinished) =
                tokio::try_join!(conversations.get(&id), turns.list(&unfinished))?;
            let conversation = conversation.ok_or_else(|| Error::not_found("conversation", id))?;
            let mut chat = Self {
                unfinished: unfinished.items,
                epoch,
                ..Self::of(engine.clone(), conversation)
            };
            let checkpointer = chat.engine.storage.checkpointer();
            chat.read(&*checkpointer).await?;
            // On the state of a turn that began after the list was read no other may begin: that
            // turn goes on, or waits for a person, and the fence would not refuse us, who know its
            // epoch. What looks the same once more was left by a program of somebody's own.
            if chat.knows_what_is_under_way() || chat.thread.head() == head.as_ref() {
                chat.claim = Some(claim);
                return Ok(chat);
            }
            head = chat.thread.head().cloned();
        }
    }

    fn knows_what_is_under_way(&self) -> bool {
        self.state.answering.is_none_or(|message| {
            let mut turns = self.unfinished.iter();
            turns.any(|turn| turn.user_message_id == message)
        })
    }

    /// Nothing is read yet, and nothing is claimed.
    pub(super) fn of(engine: TurnEngine, conversation: Conversation) -> Self {
        Self {
            thread: ThreadState::new(conversation.thread_id(), None),
            engine,
            claim: None,
            conversation,
            unfinished: Vec::new(),
            state: AgentState::default(),
            writes: Vec::new(),
            log: None,
            epoch: 0,
            next: None,
        }
    }

    /// Reads the latest checkpoint.
    pub(super) async fn read(&mut self, checkpointer: &dyn Checkpointer) -> Result<()> {
        let newest = Values::newest(&LISTS, &FIELDS, DEPTH);
        self.read_values(checkpointer, newest).await?;
        if self.state.answering.is_some() && !self.state.has_whole_turn() {
            self.read_values(checkpointer, Values::All).await?;
        }
        Ok(())
    }

    async fn read_values(&mut self, checkpointer: &dyn Checkpointer, values: Values) -> Result<()> {
        let thread_id = self.conversation.thread_id();
        let latest = CheckpointSelector {
            values,
            ..CheckpointSelector::latest(thread_id.clone())
        };
        let mut tuple = checkpointer.get(&latest).await?;
        let epoch = tuple.as_ref().and_then(epoch_of).unwrap_or_default();
        self.epoch = self.epoch.max(epoch);
        self.writes = tuple
            .as_mut()
            .map(|tuple| std::mem::take(&mut tuple.pending_writes))
            .unwrap_or_default();
        self.thread = ThreadState::new(thread_id, tuple);
        self.state = self.thread.state()?.unwrap_or_default();
        let before = self.thread.before(MESSAGES);
        self.state.messages.stand_behind(before);
        Ok(())
    }

    /// The state with all messages of the chat.
    pub(super) async fn whole_state(&self) -> Result<AgentState> {
        let selector = CheckpointSelector {
            checkpoint_id: self.thread.head().cloned(),
            ..CheckpointSelector::latest(self.conversation.thread_id())
        };
        let checkpointer = self.engine.storage.checkpointer();
        let thread = ThreadState::load_at(&*checkpointer, selector).await?;
        Ok(thread.state()?.unwrap_or_default())
    }

    /// An epoch greater than every one before.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// Finishes the turns that were cut short and those that wait, and returns the last answer.
    /// [`TurnError::Busy`] where somebody else has the turn.
    pub(super) async fn settle(&mut self) -> Result<Option<Message>, TurnError> {
        let mut answer = None;
        let mut unfinished = std::mem::take(&mut self.unfinished);
        // A turn that runs goes before those that wait.
        unfinished.sort_by_key(|turn| turn.status == TurnStatus::Queued);
        for turn in unfinished {
            answer = Some(match turn.status {
                TurnStatus::Running => self.take_over(turn).await?,
                TurnStatus::Queued => self.begin_queued(turn).await?,
                _ => return Err(TurnError::Asks(Box::new(turn))),
            });
        }
        Ok(answer)
    }

    /// Stores the user's message and the turn that is to answer it. An error of the storage; or
    /// [`Error::Fenced`], or [`Error::Conflict`] of the turn, where somebody else was faster.
    pub(super) async fn begin(&mut self, incoming: &Incoming) -> Result<Turn> {
        let message = &incoming.message;
        let new = Turn::new(self.conversation.id, message.id);
        let turn = Turn {
            id: incoming.turn_id,
            ..self.owned(new)
        };
        let begin = TurnChange::Begin {
            turn: turn.clone(),
            message: message.clone(),
        };
        if incoming.key.is_some() {
            let unit = self.engine.storage.begin().await?;
            // First: the same request elsewhere waits here, and then finds the key.
            incoming.use_key(&*unit).await?;
            let checkpointer = unit.checkpointer();
            self.save_input(&*checkpointer, message, &turn, Some(begin))
                .await?;
            unit.commit().await?;
        } else {
            let checkpointer = self.engine.storage.checkpointer();
            self.save_input(&*checkpointer, message, &turn, Some(begin))
                .await?;
        }
        self.log().told();
        incoming.is_stored(turn.id);
        Ok(turn)
    }

    /// Stores an instruction to the agent; nothing is answered. Errors as [`begin`](Self::begin).
    pub(super) async fn instruct(&mut self, incoming: &Incoming) -> Result<Message> {
        let message = &incoming.message;
        let mut state = self.state.clone();
        state.messages.push(ChatMessage::new(
            message.role.clone(),
            message.content.as_str(),
        ));
        state.instructions.push(message.content.clone());
        let unit = self.engine.storage.begin().await?;
        let stored = incoming.store(&*unit).await?;
        let fence = Fence::Raise(self.next_epoch());
        self.save(
            &*unit.checkpointer(),
            state,
            CheckpointSource::Update,
            stored.id,
            fence,
            None,
        )
        .await?;
        unit.commit().await?;
        Ok(stored)
    }

    /// Goes on with a turn that this engine owns, to its end.
    pub(super) async fn run(&mut self, turn: Turn) -> Result<Message, TurnError> {
        let id = turn.id;
        let ran = self.run_steps(turn).await;
        if is_unavailable(&ran) {
            self.engine.excuses.excuse(id);
        }
        ran
    }

    async fn run_steps(&mut self, mut turn: Turn) -> Result<Message, TurnError> {
        let begun = Instant::now();
        self.set_running(true);
        loop {
            if self.engine.is_stopping() {
                self.give_back(turn).await?;
                return Err(TurnError::Stopped);
            }
            let progress = match self.time_left(begun) {
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
                Ok(Progress::Answer(answer)) => return self.complete(turn, answer).await,
                Err(TurnError::Asks(asking)) => {
                    turn = *asking;
                    return Err(self.ask(turn).await);
                }
                Err(error) if error.ends_turn() => return Err(self.fail(turn, error).await),
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn set_running(&self, is_running: bool) {
        if let Some(claim) = &self.claim {
            claim.set_running(is_running);
        }
    }

    async fn record_step(&mut self, turn: &Turn, state: AgentState) -> Result<()> {
        let batch = log_of(&mut self.log).stepped(&self.state, &state);
        let checkpointer = self.engine.storage.checkpointer();
        let step = Checkpointed {
            state,
            source: CheckpointSource::Loop,
            last_message: turn.user_message_id,
            fence: Fence::Hold(turn.epoch),
        };
        self.tell(&*checkpointer, step, batch, None).await?;
        self.log().told();
        Ok(())
    }

    /// Takes over a running turn, and finishes it.
    async fn take_over(&mut self, turn: Turn) -> Result<Message, TurnError> {
        let (owner, lease) = (self.engine.owner, self.engine.limits.lease);
        let taken = self.engine.storage.leases().take(&turn, owner, lease).await;
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
    async fn finish(&mut self, turn: Turn) -> Result<Message, TurnError> {
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
            let completed = async {
                let unit = self.engine.storage.begin().await?;
                let ended = ended(&turn, TurnStatus::Completed, None);
                unit.leases().replace(&turn, ended).await?;
                let log = log_of(&mut self.log);
                let batch = log.completed(&self.state, &self.state, &answer);
                log.append(&*unit.turn_events(), batch).await?;
                unit.commit().await?;
                log.told();
                Ok(())
            };
            completed.await.map_err(TurnError::of_owner)?;
            return Ok(answer);
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
        let followers = self.engine.followers.clone();
        let resumed = EventLog::resume(followers, &*self.engine.storage, turn, &self.state).await;
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
        match self.engine.storage.leases().replace(turn, failed).await {
            Ok(_) => reason,
            Err(error) => TurnError::of_owner(error),
        }
    }

    /// Begins a turn that has waited, and runs it to its end.
    async fn begin_queued(&mut self, queued: Turn) -> Result<Message, TurnError> {
        let messages = self.engine.storage.messages();
        let message = messages.get(&queued.user_message_id).await?;
        let message = message.ok_or_else(|| Error::not_found("message", queued.user_message_id))?;
        let begun = Turn {
            status: TurnStatus::Running,
            started_at: Some(now()),
            ..self.owned(queued.clone())
        };
        let unit = self.engine.storage.begin().await?;
        let begun = async {
            let turn = unit.leases().replace(&queued, begun).await?;
            // What was said while others waited for their answers stands behind these.
            unit.messages().delete(&message.id).await?;
            unit.messages().add(message.clone()).await?;
            let checkpointer = unit.checkpointer();
            self.save_input(&*checkpointer, &message, &turn, None)
                .await?;
            unit.commit().await?;
            self.log().told();
            Ok(turn)
        };
        let turn = begun.await.map_err(TurnError::of_owner)?;
        self.announce_next().await?;
        self.run(turn).await
    }

    async fn announce_next(&self) -> Result<()> {
        match &self.next {
            Some(incoming) => {
                let keys = self.engine.storage.idempotency_keys();
                incoming.announce(&*keys).await
            }
            None => Ok(()),
        }
    }

    /// `turn` with a lease of this engine and the next epoch.
    pub(super) fn owned(&self, turn: Turn) -> Turn {
        Turn {
            epoch: self.next_epoch(),
            lease_owner: Some(self.engine.owner),
            lease: self.engine.limits.lease,
            ..turn
        }
    }

    /// One step: the tools that are due, else a decision of the agent.
    async fn step(&mut self, turn: &Turn) -> Result<Progress, TurnError> {
        let agent = Arc::clone(&self.engine.agent);
        let calls = self.state.open_tool_calls();
        if !calls.is_empty() {
            let state = self.run_tools(turn, &calls).await?;
            return Ok(Progress::Checkpoint(state));
        }
        let state = self.state.clone();
        if steps_taken(&state) >= self.engine.limits.max_steps {
            return Err(TurnError::TooManySteps(self.engine.limits.max_steps));
        }
        let (deltas, said) = Deltas::channel();
        let events = self.engine.storage.turn_events();
        let step = guarded(async move {
            let step = agent.step(&state, &deltas).await;
            (step, state)
        });
        let step = log_of(&mut self.log).listen(&*events, said, step).await;
        let (step, mut state) = step.map_err(TurnError::of_owner)??;
        let step = step?;
        let (content, tool_calls) = match step {
            Step::ToolCalls { content, calls } => (content, bounded(calls)?),
            Step::Ask(question) => (String::new(), vec![question_call(&state, question)]),
            Step::Answer(answer) => return Ok(Progress::Answer(answer)),
        };
        state.messages.push(ChatMessage {
            tool_calls,
            ..ChatMessage::new(Role::Assistant, content)
        });
        Ok(Progress::Checkpoint(state))
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
        let hold = Fence::Hold(turn.epoch);
        let batch = log_of(&mut self.log).completed(&self.state, &state, &message);
        let end = TurnChange::End {
            ended: ended(&turn, TurnStatus::Completed, None),
            answer: Some(message.clone()),
            seen: turn,
        };
        let last = Checkpointed {
            state,
            source: CheckpointSource::Loop,
            last_message: message.id,
            fence: hold,
        };
        self.set_running(false);
        let checkpointer = self.engine.storage.checkpointer();
        let completed = self.tell(&*checkpointer, last, batch, Some(end)).await;
        completed.map_err(TurnError::of_owner)?;
        self.log().told();
        Ok(message)
    }

    /// Ends the turn because of `reason`, which is returned unless the storage fails as well.
    async fn fail(&mut self, turn: Turn, reason: TurnError) -> TurnError {
        let hold = Fence::Hold(turn.epoch);
        self.fail_with(turn, reason, hold).await
    }

    async fn fail_with(&mut self, turn: Turn, reason: TurnError, fence: Fence) -> TurnError {
        let error = reason.to_string().replace('\0', "\u{fffd}");
        let ended = ended(&turn, TurnStatus::Failed, Some(error.clone()));
        let end = TurnEvent::Failed {
            reason: error,
            is_unavailable: matches!(reason, TurnError::Agent(AgentError::Unavailable { .. })),
        };
        let state = closed(self.state.clone(), "the turn has failed");
        let batch = log_of(&mut self.log).given_up(&self.state, &state, end);
        let last = Checkpointed {
            state,
            source: CheckpointSource::Loop,
            last_message: turn.user_message_id,
            fence,
        };
        let end = TurnChange::End {
            seen: turn,
            ended,
            answer: None,
        };
        self.set_running(false);
        let checkpointer = self.engine.storage.checkpointer();
        match self.tell(&*checkpointer, last, batch, Some(end)).await {
            Ok(()) => {
                self.log().told();
                reason
            }
            Err(error) => TurnError::of_owner(error),
        }
    }

    /// Lets another server go on with the turn at once.
    async fn give_back(&self, turn: Turn) -> Result<(), TurnError> {
        let given_back = Turn {
            lease_owner: None,
            ..turn.clone()
        };
        let given_back = self
            .engine
            .storage
            .leases()
            .replace(&turn, given_back)
            .await;
        given_back.map(drop).map_err(TurnError::of_owner)
    }

    async fn save_input(
        &mut self,
        checkpointer: &dyn Checkpointer,
        message: &Message,
        turn: &Turn,
        begin: Option<TurnChange>,
    ) -> Result<()> {
        let mut state = self.state.clone();
        state
            .messages
            .push(ChatMessage::new(Role::User, message.content.as_str()));
        state.answering = Some(message.id);
        let log = self
            .log
            .insert(EventLog::new(self.engine.followers.clone(), turn));
        let batch = log.started(&state);
        let input = Checkpointed {
            state,
            source: CheckpointSource::Input,
            last_message: message.id,
            fence: Fence::Raise(turn.epoch),
        };
        self.tell(checkpointer, input, batch, begin).await
    }

    /// Saves a checkpoint of the turn under way, with what the turn tells and what becomes of it.
    async fn tell(
        &mut self,
        checkpointer: &dyn Checkpointer,
        new: Checkpointed,
        batch: Vec<TurnEvent>,
        change: Option<TurnChange>,
    ) -> Result<()> {
        let Checkpointed {
            state,
            source,
            last_message,
            fence,
        } = new;
        let events = self.log().next(batch);
        let turn = Some(events.turn_id);
        let telling = checkpointer.telling(fence, events, change);
        self.save(&*telling, state, source, last_message, fence, turn)
            .await?;
        self.log().stored();
        Ok(())
    }

    /// `last_message` is the last message of the conversation that the state knows.
    pub(super) async fn save(
        &mut self,
        checkpointer: &dyn Checkpointer,
        state: AgentState,
        source: CheckpointSource,
        last_message: MessageId,
        fence: Fence,
        turn: Option<TurnId>,
    ) -> Result<()> {
        let mut metadata = CheckpointMetadata::new(source, self.thread.next_step())
            .with(MESSAGE_ID, last_message.to_string())
            .with(EPOCH, fence.epoch());
        if let Some(turn) = turn {
            metadata = metadata.with("run_id", turn.to_string());
        }
        let added = state.since(&self.state);
        let next = self.thread.next_with(checkpointer, &added, metadata);
        let (new, next) = next.await?;
        checkpointer.put(new, fence.into()).await?;
        self.thread = next;
        self.state = state;
        self.writes.clear();
        self.epoch = self.epoch.max(fence.epoch());
        Ok(())
    }

    async fn stored_answer(&self, turn: &Turn) -> Result<Option<Message>> {
        let messages = self.engine.storage.messages();
        messages.get(&turn.user_message_id.answer()).await
    }

    fn log(&mut self) -> &mut EventLog {
        log_of(&mut self.log)
    }

    /// Of a turn that this engine began to run then. No clock that can be set decides.
    fn time_left(&self, begun: Instant) -> Option<Duration> {
        self.engine.limits.deadline.checked_sub(begun.elapsed())
    }
}

/// The log, where the rest of a chat is borrowed too.
pub(super) fn log_of(log: &mut Option<EventLog>) -> &mut EventLog {
    log.as_mut().expect("a turn under way has its log")
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

fn epoch_of(tuple: &CheckpointTuple) -> Option<u64> {
    tuple.metadata.0.get(EPOCH)?.as_u64()
}

/// The agent's part, in a task of its own, so that work that does not yield holds up neither the
/// deadline nor a cancellation; it ends with this call. A bug there must not leave a turn that panics
/// again at every resume.
pub(super) async fn guarded<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, TurnError> {
    let mut task = JoinSet::new();
    task.spawn(work.in_current_span());
    let outcome = task.join_next().await;
    outcome.and_then(Result::ok).ok_or(TurnError::AgentCrashed)
}

fn is_unavailable<T>(outcome: &Result<T, TurnError>) -> bool {
    matches!(outcome, Err(TurnError::Storage(Error::Unavailable { .. })))
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
    ToolCall {
        // Messages are only ever appended, so their number makes an id that no other call has.
        id: format!("{ASK}_{}", state.messages.total()),
        name: ASK.to_owned(),
        arguments: serde_json::json!({ "question": question }),
    }
}

/// The state of a turn that ends without an answer. Models refuse a history in which a call has no
/// result.
pub(super) fn closed(mut state: AgentState, result: &str) -> AgentState {
    for call in state.open_tool_calls() {
        state.messages.push(ChatMessage {
            tool_call_id: Some(call.id),
            ..ChatMessage::new(Role::Tool, result)
        });
    }
    state.answering = None;
    state
}

/// A turn that nobody works on any more.
pub(super) fn ended(turn: &Turn, status: TurnStatus, error: Option<String>) -> Turn {
    let answer = turn.user_message_id.answer();
    Turn {
        status,
        error,
        assistant_message_id: (status == TurnStatus::Completed).then_some(answer),
        interrupt: None,
        lease_owner: None,
        ..turn.clone()
    }
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
