use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::part::{Part, words};
use crate::{
    CheckpointId, ConflictKind, ConversationId, Entity, MessageId, Result, clock,
    conversation::InConversation, validate,
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
///
/// The messages of a conversation are a tree: an edited message and an answer that was given anew
/// stand beside the first one. One branch of it is the chosen one, which is what people see and
/// what the agent goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its id. Messages are ordered by when they were stored.
    pub id: MessageId,
    /// The conversation that it belongs to; deleted with it.
    pub conversation_id: ConversationId,
    /// Who speaks.
    pub role: Role,
    /// What is said, as plain text.
    pub content: String,
    /// All of it, where there is more than text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// The message before it; messages with the same one are siblings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<MessageId>,
    /// Whether it is on the chosen branch.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub is_chosen: bool,
    /// The checkpoint with which it was stored: what the agent knew then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<CheckpointId>,
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
            parts: Vec::new(),
            parent_id: None,
            is_chosen: true,
            checkpoint_id: None,
            metadata: None,
            created_at,
        }
    }

    /// A new message of `parts`, whose words are its content.
    pub fn of_parts(conversation_id: ConversationId, role: Role, mut parts: Vec<Part>) -> Self {
        let content = words(&parts);
        if let [Part::Text { .. }] = &*parts {
            parts.clear();
        }
        Self {
            parts,
            ..Self::new(conversation_id, role, content)
        }
    }

    /// All of it.
    pub fn to_parts(&self) -> Vec<Part> {
        match self.parts.is_empty() {
            true => vec![Part::text(self.content.as_str())],
            false => self.parts.clone(),
        }
    }
}

fn yes() -> bool {
    true
}

/// Which messages; the default is all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MessageFilter {
    /// Only those of this conversation.
    pub conversation_id: Option<ConversationId>,
    /// Only those with this role.
    pub role: Option<Role>,
    /// Only those on the chosen branch, or only the others.
    pub is_chosen: Option<bool>,
}

impl MessageFilter {
    /// The messages of `conversation_id` on its chosen branch.
    pub fn of(conversation_id: ConversationId) -> Self {
        Self {
            conversation_id: Some(conversation_id),
            role: None,
            is_chosen: Some(true),
        }
    }

    /// Only those on the other branches.
    #[must_use]
    pub fn of_other_branches(mut self) -> Self {
        self.is_chosen = Some(false);
        self
    }

    /// Those of all branches.
    #[must_use]
    pub fn of_all_branches(mut self) -> Self {
        self.is_chosen = None;
        self
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
        let parts = (!self.parts.is_empty()).then(|| json!(self.parts));
        self.content.len()
            + validate::json_bytes(parts.as_ref())
            + validate::json_bytes(self.metadata.as_ref())
    }

    fn validate(&self) -> Result<()> {
        if self.role.as_str().is_empty() {
            return Err(crate::Error::invalid("role", "must not be empty"));
        }
        validate::bounded("role", self.role.as_str(), Role::MAX_LENGTH)?;
        validate::text("content", &self.content)?;
        if !self.parts.is_empty() {
            validate::json("parts", &json!(self.parts))?;
        }
        self.metadata
            .as_ref()
            .map_or(Ok(()), |metadata| validate::json("metadata", metadata))
    }
}
