//! Turns: a user message, the agent's steps, the answer; finished whatever happens on the way.

pub mod agent;
#[cfg(feature = "test-kit")]
pub mod test_kit;

mod approval;
mod branch;
mod chat;
mod claims;
mod conversations;
mod entries;
mod error;
mod event;
mod excuses;
mod fork;
mod handle;
mod import;
mod input;
mod lease;
mod log;
mod migrate;
mod person;
mod queue;
mod retention;
mod search;
mod send;
mod subscriptions;
mod told;
mod tools;
mod watch;
mod watch_chat;

use std::{str::FromStr, sync::Arc, time::Duration};

use tracing::Instrument;
use yai_agentkit_core::{
    Clock, ConversationId, Error, Result, Storage, retention::RetentionPolicy, turn::OwnerId,
};

use agent::Agents;
use chat::Chat;

pub use approval::Approval;
pub use conversations::{ConversationChange, Conversations};
pub use error::TurnError;
pub use event::{Published, StepKind, TurnEvent};
pub use fork::ForkPoint;
pub use handle::{TurnHandle, TurnOutcome};
pub use import::{Imported, Parent};
pub use input::{ClientContext, ClientInput, ClientTool};
pub use migrate::Migration;
pub use person::Answer;
pub use send::{RequestKey, SendOptions};
pub use told::read_events;

/// In the metadata of a checkpoint, the last message of the conversation that its state knows.
pub(crate) const MESSAGE_ID: &str = "message_id";

/// Runs the turns of an [`Agent`](agent::Agent) over a [`Storage`]. A clone shares everything.
///
/// Every step ends with a checkpoint. A turn that a crash, a shutdown or a failing storage cuts
/// short goes on from its last checkpoint: in any engine on the same storage, once the lease of the
/// one that ran it has ended ([`keep`](Self::keep), [`settle_all`](Self::settle_all), or the next
/// use of the chat). A conversation has one turn at a time, over all engines, and a turn goes on
/// although its caller is gone. An engine that has lost a turn without knowing can't write to it.
#[derive(Clone)]
pub struct TurnEngine {
    storage: Arc<dyn Storage>,
    agents: Agents,
    limits: TurnLimits,
    retention: RetentionPolicy,
    indexes: bool,
    clock: Clock,
    owner: OwnerId,
    claims: claims::Claims,
    subscriptions: subscriptions::Subscriptions,
    /// Attempts that do not count.
    excuses: excuses::Excuses,
    /// Which keys are used by a request that has stored nothing yet.
    keys: entries::Entries,
    /// In which conversations a message is being enqueued,
    enqueuing: entries::Entries,
    /// in which one answers those that wait,
    working_off: entries::Entries,
    /// and in which one is to look again.
    next_to_work_off: entries::Entries,
}

/// How far turns may go.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnLimits {
    /// A turn whose agent wants more steps fails.
    pub max_steps: usize,
    /// How many tools of one step run at once.
    pub tools_at_once: usize,
    /// A turn that was cut short so often fails; not counted is what the storage was to blame for.
    pub max_attempts: u32,
    /// A turn that an engine runs longer than this fails; waiting for a person does not count.
    pub deadline: Duration,
    /// How long after the last sign of life of its engine another one takes a turn over.
    pub lease: Duration,
    /// How long a repeated request is known by its key.
    pub key_age: Duration,
    /// How long the events of a turn that has ended can be read.
    pub event_age: Duration,
    /// What becomes of a message to a chat that is busy, unless the request says so.
    pub on_busy: OnBusy,
    /// How many messages may wait in a conversation; one more is refused.
    pub max_enqueued: u64,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            max_steps: 50,
            tools_at_once: 16,
            max_attempts: 5,
            deadline: Duration::from_secs(600),
            lease: Duration::from_secs(10),
            key_age: Duration::from_secs(24 * 3600),
            event_age: Duration::from_secs(24 * 3600),
            on_busy: OnBusy::Reject,
            max_enqueued: 100,
        }
    }
}

/// What becomes of a message to a chat that is busy with another turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBusy {
    /// It is refused, and not stored.
    #[default]
    Reject,
    /// It is stored, and answered after those before it.
    Enqueue,
    /// The turns before it are cancelled: one that runs stops at its next checkpoint.
    Interrupt,
    /// As [`Interrupt`](Self::Interrupt), and it takes the place of their messages, which are on
    /// another branch from then on: its agent knows nothing of them. A system message does not.
    Rollback,
}

impl FromStr for OnBusy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "reject" => Ok(Self::Reject),
            "enqueue" => Ok(Self::Enqueue),
            "interrupt" => Ok(Self::Interrupt),
            "rollback" => Ok(Self::Rollback),
            _ => Err(()),
        }
    }
}

impl TurnEngine {
    /// An engine without turns, of an agent or of several.
    pub fn new(storage: Arc<dyn Storage>, agents: impl Into<Agents>) -> Self {
        Self {
            storage,
            agents: agents.into(),
            limits: TurnLimits::default(),
            retention: RetentionPolicy::default(),
            indexes: false,
            clock: Clock::default(),
            owner: OwnerId::new(),
            claims: claims::Claims::default(),
            subscriptions: subscriptions::Subscriptions::default(),
            excuses: excuses::Excuses::default(),
            keys: entries::Entries::default(),
            enqueuing: entries::Entries::default(),
            working_off: entries::Entries::default(),
            next_to_work_off: entries::Entries::default(),
        }
    }

    /// The same engine with other limits.
    #[must_use]
    pub fn with_limits(self, limits: TurnLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same engine, which stamps by `clock` the turns and messages that it makes.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The same engine on another storage of the same conversations: on that of one tenant in place of
    /// that of all. What is under way is shared.
    #[must_use]
    pub fn on(&self, storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            ..self.clone()
        }
    }

    /// The same engine on the storage that has this conversation.
    async fn home_of(&self, conversation: ConversationId) -> Result<Self> {
        let Some(tenants) = self.storage.tenants() else {
            return Ok(self.clone());
        };
        let tenant = tenants.of_conversation(conversation).await?;
        let tenant = tenant.ok_or_else(|| Error::not_found("conversation", conversation))?;
        Ok(self.on(tenants.storage(&tenant)?))
    }

    /// Whether conversations may name an agent so.
    pub fn has_agent(&self, name: &str) -> bool {
        self.agents.names().any(|known| known == name)
    }

    /// Finishes what is unfinished in a conversation and can be finished now: turns that nobody
    /// has a lease of, then those that wait for them. Returns what the last one has come to.
    pub async fn settle(
        &self,
        conversation_id: ConversationId,
    ) -> Result<Option<TurnOutcome>, TurnError> {
        let claim = self.claim(conversation_id).await?;
        let work = async move |engine: Self| {
            let mut chat = Chat::open(engine, claim, 0).await?;
            chat.settle().await
        };
        let resumed = self.detached(work).await;
        if let Err(TurnError::Storage(error @ Error::Unreadable { .. })) = &resumed {
            self.end_unreadable(conversation_id, error).await?;
        }
        resumed
    }

    /// Keeps turns of this engine out of a conversation while the claim lives, for who changes it
    /// as a whole.
    async fn claim(&self, conversation_id: ConversationId) -> Result<claims::Claim, TurnError> {
        self.claims.claim(conversation_id).await
    }

    /// From now on no turn starts, and those under way stop at their next checkpoint and are given
    /// back.
    pub fn stop(&self) {
        self.claims.stop();
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.claims.is_stopping()
    }

    /// Waits for [`stop`](Self::stop).
    pub async fn stopped(&self) {
        self.claims.stopped().await;
    }

    /// Stops, and waits at most `limit` until nothing is under way; says whether that is so.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.stop();
        tokio::time::timeout(limit, self.claims.idle())
            .await
            .is_ok()
    }

    /// Runs `work` in a task of its own that outlives the caller.
    async fn detached<T, W>(
        &self,
        work: impl FnOnce(Self) -> W + Send + 'static,
    ) -> Result<T, TurnError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, TurnError>> + Send + 'static,
    {
        let task = work(self.clone());
        match tokio::spawn(task.in_current_span()).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// An error with all its causes, for a log line or a terminal.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |chain, cause| {
        let cause = cause.to_string();
        // Some libraries say the cause in the error too.
        if chain.ends_with(&cause) {
            chain
        } else {
            format!("{chain}: {cause}")
        }
    })
}
