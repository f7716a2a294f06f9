//! The audit log as it is shown.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use yai_agentkit_core::audit::{Actor, AuditEntry};

/// Who acts by a command.
pub(crate) fn command() -> Actor {
    Actor::new("command")
}

/// Something that somebody did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct Told {
    /// By the clock of the database.
    pub(crate) at: DateTime<Utc>,
    /// The id of the key, or `command`, `server` with its id, or `anybody` where no key is asked for.
    pub(crate) who: String,
    /// For which owner: an id, which is made of the name (UUID version 5) and does not tell it.
    pub(crate) owner: Option<Uuid>,
    /// What was done.
    #[schema(example = "conversation.deleted")]
    pub(crate) action: &'static str,
    /// With what: an id.
    pub(crate) subject: String,
    /// With how many.
    pub(crate) count: Option<u64>,
}

impl From<AuditEntry> for Told {
    fn from(entry: AuditEntry) -> Self {
        let act = entry.act;
        Self {
            at: entry.at,
            who: act.actor.who,
            owner: act.actor.owner,
            action: act.action.as_str(),
            subject: act.subject,
            count: act.count,
        }
    }
}
