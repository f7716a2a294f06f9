use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    ConflictKind, ConversationId, Entity, MessageId, Result, clock, conversation::InConversation,
    validate,
};

/// Who speaks. An open set: LangGraph and model providers add their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Role {
    /// The person.
    User,
    /// The agent.
    Assistant,
    /// Instructions to the agent.
    System,
    /// The result of a tool.
    Tool,
    /// Any other, at most 50 characters.
    Other(String),
}

impl Role {
    /// The longest role, in characters.
    pub const MAX_LENGTH: usize = 50;

    /// The role as it is stored.
    pub fn as_str(&self) -> &str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
            Self::Other(role) => role,
        }
    }
}

impl From<String> for Role {
    fn from(role: String) -> Self {
        match role.as_str() {
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "system" => Self::System,
            "tool" => Self::Tool,
            _ => Self::Other(role),
        }
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        match role {
            Role::Other(role) => role,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its id. Messages are ordered by when they were stored.
    pub id: MessageId,
    /// The conversation that it belongs to; deleted with it.
    pub conversation_id: ConversationId,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Any JSON that the application keeps with it.
    pub metadata: Option<Json>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Message {
    /// A new message of `conversation_id`.
    pub fn new(conversation_id: ConversationId, role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self::with_id(
            MessageId::new(),
            conversation_id,
            role,
            content,
            clock::now(),
        )
    }

    /// The message with this id, made at that time.
    pub fn with_id(
        id: MessageId,
        conversation_id: ConversationId,
        role: Role,
        content: String,
        created_at: DateTime<Utc>,
    ) -> Self {
        Self {
            id,
            conversation_id,
            role,
            content,
            metadata: None,
            created_at,
        }
    }
}

/// Which messages; the default is all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MessageFilter {
    /// Only those of this conversation.
    pub conversation_id: Option<ConversationId>,
    /// Only those with this role.
    pub role: Option<Role>,
}

impl MessageFilter {
    /// The messages of `conversation_id`.
    pub fn of(conversation_id: ConversationId) -> Self {
        Self {
            conversation_id: Some(conversation_id),
            role: None,
        }
    }

    /// Only those with `role`.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }
}

impl Entity for Message {
    type Id = InConversation<MessageId>;
    type Filter = MessageFilter;
    const NAME: &'static str = "message";

    fn id(&self) -> Self::Id {
        self.conversation_id.key(self.id)
    }

    fn conflict(id: &Self::Id) -> ConflictKind {
        ConflictKind::Message(id.id)
    }

    fn parent(&self) -> Option<(&'static str, String)> {
        Some(("conversation", self.conversation_id.to_string()))
    }

    fn bytes(&self) -> usize {
        self.content.len() + validate::json_bytes(self.metadata.as_ref())
    }

    fn validate(&self) -> Result<()> {
        if self.role.as_str().is_empty() {
            return Err(crate::Error::invalid("role", "must not be empty"));
        }
        validate::bounded("role", self.role.as_str(), Role::MAX_LENGTH)?;
        validate::text("content", &self.content)?;
        self.metadata
            .as_ref()
            .map_or(Ok(()), |metadata| validate::json("metadata", metadata))
    }
}
