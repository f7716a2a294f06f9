//! What was said: conversations and their messages.

mod form;
mod message;
mod part;
mod search;

pub use crate::id::InConversation;
pub use form::MessageForm;
pub use message::{Message, MessageFilter, Role};
pub use part::{Part, Source};
pub use search::{
    ConversationSearch, Fields, Hit, HitCursor, MAX_TEXT, SearchQuery, Wanted, scalar, terms,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{ConversationId, Entity, Result, ThreadId, access, clock, validate};

/// A conversation: what was said, and the thread in which its agent works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Conversation {
    /// Ordered by time of creation.
    pub id: ConversationId,
    /// The thread that holds the agent's checkpoints: the conversation's own id, unless it adopts a
    /// thread that LangGraph has made. A logical link: the thread may not exist yet.
    pub checkpoint_thread_id: Uuid,
    /// Whose it is, in at most 255 characters; `None` is nobody's in particular.
    pub owner: Option<String>,
    /// At most 255 characters.
    pub title: Option<String>,
    /// Any JSON that the application keeps with it.
    pub metadata: Option<Json>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed; moves at every update.
    pub updated_at: DateTime<Utc>,
}

impl Conversation {
    /// The longest title, in characters.
    pub const MAX_TITLE: usize = 255;

    /// A new conversation, whose thread has its own id.
    pub fn new(title: Option<String>, metadata: Option<Json>) -> Self {
        Self {
            title,
            metadata,
            ..Self::with_id(ConversationId::new(), clock::now())
        }
    }

    /// The conversation with this id, made at that time.
    pub fn with_id(id: ConversationId, created_at: DateTime<Utc>) -> Self {
        Self {
            id,
            checkpoint_thread_id: id.0,
            owner: None,
            title: None,
            metadata: None,
            created_at,
            updated_at: created_at,
        }
    }

    /// A new conversation with `title`.
    pub fn titled(title: impl Into<String>) -> Self {
        Self::new(Some(title.into()), None)
    }

    /// Adopts a thread that is there already.
    ///
    /// ```
    /// # use yai_agentkit_core::Conversation;
    /// let own = Conversation::titled("A trip");
    /// assert_eq!(own.thread_id().as_str(), own.id.to_string());
    /// let thread = uuid::Uuid::now_v7();
    /// let adopted = own.with_thread(thread);
    /// assert_eq!(adopted.thread_id().as_str(), thread.to_string());
    /// ```
    #[must_use]
    pub fn with_thread(mut self, thread: Uuid) -> Self {
        self.checkpoint_thread_id = thread;
        self
    }

    /// The thread that holds the agent's checkpoints.
    pub fn thread_id(&self) -> ThreadId {
        self.checkpoint_thread_id.to_string().into()
    }
}

/// Which conversations; the default is all. By words and metadata they are found by [`ConversationSearch`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ConversationFilter {
    /// Only the conversation of this thread.
    pub checkpoint_thread_id: Option<Uuid>,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those with exactly this title.
    pub title: Option<String>,
}

impl ConversationFilter {
    /// The conversations with exactly `title`.
    pub fn titled(title: impl Into<String>) -> Self {
        Self {
            title: Some(title.into()),
            ..Self::default()
        }
    }

    /// Only those of `owner`, where there is one.
    #[must_use]
    pub fn owned_by(mut self, owner: Option<String>) -> Self {
        self.owner = owner;
        self
    }

    /// Only the conversation of `thread`.
    #[must_use]
    pub fn thread(mut self, thread: Uuid) -> Self {
        self.checkpoint_thread_id = Some(thread);
        self
    }
}

impl Entity for Conversation {
    type Id = ConversationId;
    type Filter = ConversationFilter;
    const NAME: &'static str = "conversation";

    fn id(&self) -> ConversationId {
        self.id
    }

    fn bytes(&self) -> usize {
        validate::json_bytes(self.metadata.as_ref())
    }

    fn validate(&self) -> Result<()> {
        if let Some(owner) = &self.owner {
            access::validate_owner(owner)?;
        }
        if let Some(title) = &self.title {
            validate::bounded("title", title, Self::MAX_TITLE)?;
        }
        self.metadata
            .as_ref()
            .map_or(Ok(()), |metadata| validate::json("metadata", metadata))
    }

    fn touch(&mut self, now: DateTime<Utc>) {
        self.updated_at = clock::later(now, self.updated_at);
    }
}
