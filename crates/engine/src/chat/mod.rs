//! A conversation and its agent's state, as one who works on it sees them.

mod begin;
mod run;
mod take_over;

use std::{mem, sync::Arc};

use serde_json::Value as Json;
use tokio::time::Instant;
use yai_agentkit_core::{
    CheckpointId, CheckpointSelector, CheckpointTuple, Checkpointer, Conversation, Entity, Error,
    ListQuery, MessageId, NewCheckpoint, Result, Role, ThreadState, Turn, TurnId, TurnStatus,
    TurnStore,
    checkpoint::{CheckpointMetadata, CheckpointSource, PendingWrite, Values},
    turn::TurnFilter,
};

pub(super) use self::run::{Progress, guarded};
use super::{
    MESSAGE_ID, TurnEngine, TurnError,
    branch::{last_message, path_to},
    claims::Claim,
    log::EventLog,
    send::Incoming,
};
use crate::agent::{AgentState, AnyAgent, ChatMessage, Context};

/// The field of a checkpoint's metadata that holds the epoch with which it was written.
const EPOCH: &str = "epoch";

/// The field that holds the version of the agent's own state, where that is not 1.
pub(crate) const STATE_VERSION: &str = "state_version";

/// The channel of the messages.
const MESSAGES: &str = "messages";

/// The channel of the agent's own state.
pub(crate) const STATE: &str = "state";

const FIELDS: [&str; 2] = [STATE, "answering"];

/// Agents are to heed them however old they are.
const INSTRUCTIONS: &str = "instructions";
/// How many of them a chat is opened with at least.
const NEWEST_INSTRUCTIONS: usize = 73;

/// A claimed conversation with its agent's state, for one piece of work: after an error of the
/// storage its view may be wrong.
pub(super) struct Chat {
    pub(super) engine: TurnEngine,
    agent: Result<Arc<dyn AnyAgent>, String>,
    claim: Option<Claim>,
    pub(super) conversation: Conversation,
    /// Oldest first.
    unfinished: Vec<Turn>,
    pub(super) thread: ThreadState,
    pub(super) state: AgentState,
    /// Of the agent's own state in it, as it was stored or is since it was migrated.
    state_version: u32,
    /// Why it was not migrated.
    unmigrated: Option<String>,
    /// What the tools of the step under way have recorded.
    pub(super) writes: Vec<PendingWrite>,
    /// The last message that the state knows.
    last_message: Option<MessageId>,
    /// From what the next turn begins, where that is not the state.
    base: Option<AgentState>,
    /// What the turn under way publishes.
    pub(super) log: Option<EventLog>,
    /// When the turn under way has taken too long. No clock that can be set decides.
    deadline: Option<Instant>,
    /// The greatest epoch that the thread is known to have had.
    epoch: u64,
    /// The message that waits for what is unfinished.
    pub(super) next: Option<Arc<Incoming>>,
}

/// What the chat is once a checkpoint is stored.
#[must_use]
pub(super) struct Staged {
    thread: ThreadState,
    state: AgentState,
    last_message: MessageId,
    epoch: u64,
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
            chat.agent()?;
            let checkpointer = chat.engine.storage.checkpointer();
            chat.read(&*checkpointer).await?;
            chat.check_state()?;
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

    /// The last message that the state knows.
    pub(super) fn last_message(&self) -> Option<MessageId> {
        self.last_message
    }

    /// Whether a turn has not ended.
    pub(super) fn is_under_way(&self) -> bool {
        !self.unfinished.is_empty()
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
            agent: engine.agents.of(&conversation),
            engine,
            deadline: None,
            claim: None,
            conversation,
            unfinished: Vec::new(),
            state: AgentState::default(),
            state_version: 1,
            unmigrated: None,
            writes: Vec::new(),
            last_message: None,
            base: None,
            log: None,
            epoch: 0,
            next: None,
        }
    }

    /// Who answers here.
    pub(super) fn agent(&self) -> Result<Arc<dyn AnyAgent>, TurnError> {
        self.agent.clone().map_err(TurnError::NoAgent)
    }

    /// What the agent and its tools know of where they work.
    pub(super) fn context(&self, turn: &Turn) -> Context {
        let step = self.state.messages.total();
        Context::new(self.conversation.clone(), turn.clone(), self.deadline, step)
    }

    /// Reads the latest checkpoint.
    pub(super) async fn read(&mut self, checkpointer: &dyn Checkpointer) -> Result<()> {
        let mut messages = self.newest_messages();
        loop {
            let values = opened_with(messages);
            self.read_values(checkpointer, values, None).await?;
            if self.state.answering.is_none() || self.state.has_whole_turn() {
                return Ok(());
            }
            messages = self.state.messages.len() + 1;
        }
    }

    fn newest_messages(&self) -> usize {
        let agent = self.agent.as_ref();
        agent.map_or(0, |agent| agent.newest_messages())
    }

    /// Goes back to what the agent knew behind `last`, or before anything was said. What is stored
    /// next goes on from there.
    pub(super) async fn go_back(&mut self, last: Option<MessageId>) -> Result<()> {
        let newest = self.thread.head().cloned();
        let own = mem::take(&mut self.state.own);
        let storage = Arc::clone(&self.engine.storage);
        let message = match last {
            Some(id) => {
                let message = storage
                    .messages()
                    .get(&self.conversation.id.key(id))
                    .await?;
                Some(message.ok_or_else(|| Error::not_found("message", id))?)
            }
            None => None,
        };
        self.thread = ThreadState::new(self.conversation.thread_id(), None);
        self.state = AgentState::default();
        let checkpoint = message.as_ref().and_then(|last| last.checkpoint_id.clone());
        if checkpoint.is_some() {
            let values = opened_with(self.newest_messages());
            let checkpointer = storage.checkpointer();
            self.read_values(&*checkpointer, values, checkpoint).await?;
        }
        let base = match message {
            // Of a message that was imported, or whose checkpoint was pruned.
            Some(message) if self.thread.head().is_none() => {
                let path = path_to(&*storage.messages(), message).await?;
                AgentState {
                    own,
                    ..AgentState::of(&path)
                }
            }
            _ => self.state.clone(),
        };
        self.base = Some(closed(base, "the turn has ended"));
        self.thread = self.thread.clone().branching(newest);
        self.last_message = last;
        self.writes.clear();
        Ok(())
    }

    /// From what the next turn begins.
    pub(super) fn base(&mut self) -> AgentState {
        self.base.take().unwrap_or_else(|| self.state.clone())
    }

    async fn read_values(
        &mut self,
        checkpointer: &dyn Checkpointer,
        values: Values,
        checkpoint_id: Option<CheckpointId>,
    ) -> Result<()> {
        let thread_id = self.conversation.thread_id();
        let latest = CheckpointSelector {
            values,
            checkpoint_id,
            ..CheckpointSelector::latest(thread_id.clone())
        };
        let mut tuple = checkpointer.get(&latest).await?;
        let epoch = tuple.as_ref().and_then(epoch_of).unwrap_or_default();
        self.epoch = self.epoch.max(epoch);
        self.last_message = tuple.as_ref().and_then(last_message);
        let version = tuple.as_ref().map_or(1, state_version);
        self.writes = tuple
            .as_mut()
            .map(|tuple| mem::take(&mut tuple.pending_writes))
            .unwrap_or_default();
        self.thread = ThreadState::read_from(checkpointer, thread_id, tuple).await?;
        self.state = self.thread.state()?.unwrap_or_default();
        let before = self.thread.before(MESSAGES);
        self.state.messages.stand_behind(before);
        self.migrate_own(version);
        Ok(())
    }

    /// Makes of the agent's own state one of today's, if this server can. As long as it can't, the
    /// state stays as it is, and [`check_state`](Self::check_state) says why.
    fn migrate_own(&mut self, stored: u32) {
        self.state_version = stored;
        self.unmigrated = None;
        let Ok(agent) = &self.agent else { return };
        let known = agent.state_version();
        if self.state.own.is_null() {
            self.state_version = known;
        } else if stored < known {
            match agent.migrate(stored, self.state.own.clone()) {
                Ok(own) => (self.state.own, self.state_version) = (own, known),
                Err(reason) => self.unmigrated = Some(reason),
            }
        }
    }

    /// Whether the agent of this server can go on from the state.
    pub(super) fn check_state(&self) -> Result<(), TurnError> {
        let (stored, known) = (self.state_version, self.agent()?.state_version());
        match &self.unmigrated {
            _ if stored > known => Err(TurnError::NewerState { stored, known }),
            Some(reason) => Err(TurnError::NotMigrated(reason.clone())),
            None => Ok(()),
        }
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

    pub(super) fn set_running(&self, is_running: bool) {
        if let Some(claim) = &self.claim {
            claim.set_running(is_running);
        }
    }

    /// `turn` with a lease of this engine and the next epoch.
    pub(super) fn owned(&self, turn: Turn) -> Turn {
        turn.with(|turn| {
            turn.epoch = self.next_epoch();
            turn.lease_owner = Some(self.engine.owner);
            turn.lease = self.engine.limits.lease;
        })
    }

    /// The checkpoint that holds `state`, and what this chat is once it is [stored](Self::stored).
    /// `last_message` is the last message of the conversation that the state knows.
    pub(super) async fn stage(
        &self,
        checkpointer: &dyn Checkpointer,
        state: AgentState,
        source: CheckpointSource,
        last_message: MessageId,
        epoch: u64,
        turn: Option<TurnId>,
    ) -> Result<(NewCheckpoint, Staged)> {
        let mut metadata = CheckpointMetadata::new(source, self.thread.next_step())
            .with(MESSAGE_ID, last_message.to_string())
            .with(EPOCH, epoch);
        if self.state_version > 1 {
            metadata = metadata.with(STATE_VERSION, self.state_version);
        }
        if let Some(turn) = turn {
            metadata = metadata.with("run_id", turn.to_string());
        }
        let added = state.since(&self.state);
        let next = self.thread.next_with(checkpointer, &added, metadata);
        let (checkpoint, thread) = next.await?;
        let staged = Staged {
            thread,
            state,
            last_message,
            epoch,
        };
        Ok((checkpoint, staged))
    }

    /// The checkpoint that was staged is durable.
    pub(super) fn stored(&mut self, staged: Staged) {
        let Staged {
            thread,
            state,
            last_message,
            epoch,
        } = staged;
        self.thread = thread;
        self.state = state;
        self.last_message = Some(last_message);
        self.writes.clear();
        self.epoch = self.epoch.max(epoch);
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

    fn turns(&self) -> Arc<dyn TurnStore> {
        self.engine.storage.turn_store()
    }

    fn log(&mut self) -> &mut EventLog {
        log_of(&mut self.log)
    }
}

/// What a chat is opened with.
fn opened_with(messages: usize) -> Values {
    let said = Values::newest(&[MESSAGES], &FIELDS, messages);
    let instructions = Values::newest(&[INSTRUCTIONS], &[], NEWEST_INSTRUCTIONS);
    match (said, instructions) {
        (Values::Of(said), Values::Of(instructions)) => Values::Of(&said | &instructions),
        _ => Values::All,
    }
}

/// The log, where the rest of a chat is borrowed too.
pub(super) fn log_of(log: &mut Option<EventLog>) -> &mut EventLog {
    log.as_mut().expect("a turn under way has its log")
}

fn epoch_of(tuple: &CheckpointTuple) -> Option<u64> {
    tuple.metadata.0.get(EPOCH)?.as_u64()
}

pub(crate) fn state_version(tuple: &CheckpointTuple) -> u32 {
    let version = tuple.metadata.0.get(STATE_VERSION).and_then(Json::as_u64);
    version.map_or(1, |version| u32::try_from(version).unwrap_or(u32::MAX))
}

fn is_unavailable<T>(outcome: &Result<T, TurnError>) -> bool {
    matches!(outcome, Err(TurnError::Storage(Error::Unavailable { .. })))
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
    let answer = turn.answer_id();
    turn.clone().with(|turn| {
        turn.status = status;
        turn.error = error;
        turn.assistant_message_id = (status == TurnStatus::Completed).then_some(answer);
        turn.input = None;
        turn.interrupt = None;
        turn.lease_owner = None;
    })
}
