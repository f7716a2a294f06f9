use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{ConversationId, Entity, MessageId, Result, TurnId, clock, now, validate};

/// How far a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TurnStatus {
    /// The agent owes an answer. A conversation has at most one running turn.
    Running,
    /// The answer is stored.
    Completed,
    /// The agent gave up; [`Turn::error`] says why.
    Failed,
}

impl TurnStatus {
    /// The status as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// The record of one turn: a user message that the agent answers.
///
/// It is stored with the user message and completed with the answer, each in one transaction, so
/// that a turn which a crash cut short is found and finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Ordered by time of creation.
    pub id: TurnId,
    /// The conversation that it belongs to; deleted with it.
    pub conversation_id: ConversationId,
    /// The message that it answers. The answer's id is [`MessageId::answer`] of this one.
    pub user_message_id: MessageId,
    /// How far it is.
    pub status: TurnStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When its status last changed.
    pub updated_at: DateTime<Utc>,
}

impl Turn {
    /// A new running turn.
    pub fn new(conversation_id: ConversationId, user_message_id: MessageId) -> Self {
        let now = now();
        Self {
            id: TurnId::new(),
            conversation_id,
            user_message_id,
            status: TurnStatus::Running,
            error: None,
            created_at: now,
            updated_at: now,
        }
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
}

impl TurnFilter {
    /// The running turns, of which there is at most one a conversation.
    pub fn running() -> Self {
        Self {
            conversation_id: None,
            status: Some(TurnStatus::Running),
        }
    }

    /// Only those of `conversation_id`.
    #[must_use]
    pub fn of(mut self, conversation_id: ConversationId) -> Self {
        self.conversation_id = Some(conversation_id);
        self
    }
}

impl Entity for Turn {
    type Id = TurnId;
    type Filter = TurnFilter;
    const NAME: &'static str = "turn";

    fn id(&self) -> TurnId {
        self.id
    }

    fn parent(&self) -> Option<(&'static str, String)> {
        Some(("conversation", self.conversation_id.to_string()))
    }

    fn validate(&self) -> Result<()> {
        self.error
            .as_ref()
            .map_or(Ok(()), |error| validate::text("error", error))
    }

    fn touch(&mut self, now: DateTime<Utc>) {
        self.updated_at = clock::later(now, self.updated_at);
    }
}
