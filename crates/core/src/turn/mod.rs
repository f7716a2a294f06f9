//! A message on its way to its answer: turns, and what becomes durable whole.

mod event;
mod idempotency;
mod ledger;
mod store;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    ConflictKind, ConversationId, Entity, MessageId, Result, TurnId, clock,
    conversation::InConversation, validate,
};

pub use self::{
    event::{Announcements, EventBatch, LatestBatches},
    idempotency::{IdempotencyKey, IdempotencyKeyFilter},
    ledger::{DueTurn, Opened, TurnClosing, TurnLedger, TurnOpening, TurnOwner, TurnRecord},
    store::{Place, TurnBegin, TurnChange, TurnStep, TurnStore},
};
pub use crate::id::{InterruptId, OwnerId};

/// How far a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TurnStatus {
    /// It waits for the turns before it.
    Queued,
    /// The agent owes an answer. A conversation has at most one running turn.
    Running,
    /// It waits for a person's answer to [`Turn::interrupt`].
    Waiting,
    /// The answer is stored.
    Completed,
    /// The agent gave up; [`Turn::error`] says why.
    Failed,
    /// Somebody wanted no answer any more.
    Cancelled,
}

impl TurnStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The status as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What a turn waits for: a person's answer to a question, or what tools have come to that only the
/// client can run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Interrupt {
    /// An answer names it, so that one that comes late does not answer another question.
    pub id: InterruptId,
    /// The tool call that asks.
    pub tool_call_id: String,
    /// For the person to read; empty where it is the client that is waited for.
    pub question: String,
    /// The tool calls that the client is to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_calls: Vec<String>,
    /// The call that is not to run before a person has approved of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<ProposedCall>,
}

/// A tool call that waits for approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProposedCall {
    /// The tool.
    pub name: String,
    /// With what it is to run.
    pub arguments: Json,
}

impl Interrupt {
    /// A new question, which the tool call asks.
    pub fn new(tool_call_id: impl Into<String>, question: impl Into<String>) -> Self {
        Self {
            id: InterruptId::new(),
            tool_call_id: tool_call_id.into(),
            question: question.into(),
            client_calls: Vec::new(),
            proposed: None,
        }
    }

    /// The same for these calls, which the client is to run.
    #[must_use]
    pub fn for_client(mut self, calls: impl IntoIterator<Item = String>) -> Self {
        self.client_calls = calls.into_iter().collect();
        self
    }

    /// The same about a call that waits for approval.
    #[must_use]
    pub fn about(mut self, proposed: ProposedCall) -> Self {
        self.proposed = Some(proposed);
        self
    }
}

/// The record of one turn: a user message that the agent answers.
///
/// It is stored with the user message and completed with the answer, each in one transaction, so
/// that a turn which a crash cut short is found and finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Turn {
    /// Its id. Turns are ordered by when they were stored.
    pub id: TurnId,
    /// The conversation that it belongs to; deleted with it.
    pub conversation_id: ConversationId,
    /// The message that it answers.
    pub user_message_id: MessageId,
    /// The answer, once it is stored; of a turn that answers a message anew, the id that it will have.
    pub assistant_message_id: Option<MessageId>,
    /// How far it is.
    pub status: TurnStatus,
    /// What it is given beside its message, such as the tools of the client: the application's affair.
    pub input: Option<Json>,
    /// Why it failed.
    pub error: Option<String>,
    /// What it waits for while it is waiting.
    pub interrupt: Option<Interrupt>,
    /// How often somebody has begun to work on it, those not counted that gave it back.
    pub attempt: u32,
    /// With what its owner fences the writes to the thread: greater than that of every turn that
    /// ran in the conversation before. 0 before it runs.
    pub epoch: u64,
    /// Who works on it while it runs; `None` when its owner has given it back.
    pub lease_owner: Option<OwnerId>,
    /// For how long the owner has it, unless it renews; to the millisecond. See [`TurnStore`].
    pub lease: Duration,
    /// Since when it runs: since its begin, or the last answer of a person.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When its status last changed.
    pub updated_at: DateTime<Utc>,
}

impl Turn {
    /// A new running turn, without a lease: anybody may take it.
    pub fn new(conversation_id: ConversationId, user_message_id: MessageId) -> Self {
        Self::with_id(
            TurnId::new(),
            conversation_id,
            user_message_id,
            clock::now(),
        )
    }

    /// The turn with this id, made at that time.
    pub fn with_id(
        id: TurnId,
        conversation_id: ConversationId,
        user_message_id: MessageId,
        created_at: DateTime<Utc>,
    ) -> Self {
        Self {
            id,
            conversation_id,
            user_message_id,
            assistant_message_id: None,
            input: None,
            status: TurnStatus::Running,
            error: None,
            interrupt: None,
            attempt: 1,
            epoch: 0,
            lease_owner: None,
            lease: Duration::ZERO,
            started_at: Some(created_at),
            created_at,
            updated_at: created_at,
        }
    }

    /// The id of its answer: the same at every attempt, so that none is stored twice.
    pub fn answer_id(&self) -> MessageId {
        let first = || self.user_message_id.answer();
        self.assistant_message_id.unwrap_or_else(first)
    }
}

/// Which turns; the default is all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TurnFilter {
    /// Only those of this conversation.
    pub conversation_id: Option<ConversationId>,
    /// Only those with this status.
    pub status: Option<TurnStatus>,
    /// Only those that have not ended.
    pub unfinished: bool,
}

impl TurnFilter {
    /// The running turns, of which there is at most one a conversation.
    pub fn running() -> Self {
        Self::default().status(TurnStatus::Running)
    }

    /// The turns that wait for those before them.
    pub fn queued() -> Self {
        Self::default().status(TurnStatus::Queued)
    }

    /// The turns that have not ended.
    pub fn unfinished() -> Self {
        Self {
            unfinished: true,
            ..Self::default()
        }
    }

    /// Only those with `status`.
    #[must_use]
    pub fn status(mut self, status: TurnStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Only those of `conversation_id`.
    #[must_use]
    pub fn of(mut self, conversation_id: ConversationId) -> Self {
        self.conversation_id = Some(conversation_id);
        self
    }
}

impl Entity for Turn {
    type Id = InConversation<TurnId>;
    type Filter = TurnFilter;
    const NAME: &'static str = "turn";

    fn id(&self) -> Self::Id {
        self.conversation_id.key(self.id)
    }

    fn conflict(id: &Self::Id) -> ConflictKind {
        ConflictKind::Turn(id.id)
    }

    fn parent(&self) -> Option<(&'static str, String)> {
        Some(("conversation", self.conversation_id.to_string()))
    }

    fn validate(&self) -> Result<()> {
        if let Some(asked) = &self.interrupt {
            let texts = [&asked.question, &asked.tool_call_id].into_iter();
            for text in texts.chain(&asked.client_calls) {
                validate::text("interrupt", text)?;
            }
        }
        if let Some(input) = &self.input {
            validate::json("input", input)?;
        }
        let error = self.error.as_ref();
        error.map_or(Ok(()), |error| validate::text("error", error))
    }

    fn touch(&mut self, now: DateTime<Utc>) {
        self.updated_at = clock::later(now, self.updated_at);
    }
}
