//! Who has changed who may do what, or has done what can't be undone. Never what was said.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::Result;

/// The youngest that an entry may be when it goes.
pub const SHORTEST_AGE: Duration = Duration::from_secs(30 * 86_400);

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// A key was made.
    KeyCreated,
    /// A key was revoked.
    KeyRevoked,
    /// A conversation was deleted.
    ConversationDeleted,
    /// A conversation was erased, whether a turn ran in it or not.
    ConversationErased,
    /// All of an owner was erased.
    OwnerErased,
    /// All of a tenant was erased.
    TenantErased,
    /// A message was redacted.
    MessageRedacted,
    /// What is not kept was deleted.
    Pruned,
    /// A history was imported.
    Imported,
    /// A history was exported.
    Exported,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::ConversationDeleted,
        Self::ConversationErased,
        Self::OwnerErased,
        Self::TenantErased,
        Self::MessageRedacted,
        Self::Pruned,
        Self::Imported,
        Self::Exported,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyCreated => "key.created",
            Self::KeyRevoked => "key.revoked",
            Self::ConversationDeleted => "conversation.deleted",
            Self::ConversationErased => "conversation.erased",
            Self::OwnerErased => "owner.erased",
            Self::TenantErased => "tenant.erased",
            Self::MessageRedacted => "message.redacted",
            Self::Pruned => "pruned",
            Self::Imported => "imported",
            Self::Exported => "exported",
        }
    }

    /// The action with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The id of the key, or another name that is no person's.
    pub who: String,
    /// For which owner, by [`owner_id`](crate::access::owner_id): the name of a person who is erased is
    /// in no entry.
    pub owner: Option<Uuid>,
}

impl Actor {
    /// Somebody who acts for all.
    pub fn new(who: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            owner: None,
        }
    }

    /// What it does.
    pub fn does(&self, action: Action, subject: impl ToString) -> Act {
        Act {
            actor: self.clone(),
            action,
            subject: subject.to_string(),
            count: None,
        }
    }
}

/// What somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// With what: an id.
    pub subject: String,
    /// With how many.
    pub count: Option<u64>,
}

impl Act {
    /// With so many.
    #[must_use]
    pub fn counting(self, count: u64) -> Self {
        Self {
            count: Some(count),
            ..self
        }
    }
}

/// An act as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// The order of entries.
    pub position: i64,
    /// When, by the clock of the database.
    pub at: DateTime<Utc>,
    /// What.
    pub act: Act,
}

/// Which entries, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// Those before this position.
    pub before: Option<i64>,
    /// Only those of who acted for this owner.
    pub owner: Option<Uuid>,
    /// How many at most.
    pub limit: u64,
}

/// What was done, for those who must be able to tell. Nothing in it changes.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Adds an act. In a unit of work it is there if what it tells of is.
    async fn record(&self, act: &Act) -> Result<()>;

    /// Reads entries.
    async fn list(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>>;

    /// Deletes the entries that are older than `age`, or than [`SHORTEST_AGE`] if that is more, and
    /// returns how many there were. Nothing else deletes any.
    async fn expire(&self, age: Duration) -> Result<u64>;
}
