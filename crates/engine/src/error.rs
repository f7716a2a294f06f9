use yai_agentkit_core::{ConflictKind, ConversationId, Error};

use crate::agent::AgentError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// The conversation is in use; nothing was stored.
    #[error("conversation {0} is busy with another turn")]
    Busy(ConversationId),
    /// So many messages wait in the conversation already; nothing was stored.
    #[error("{0} messages wait for their turn already")]
    QueueFull(u64),
    /// The key was used with another request; nothing was stored.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    /// No turn starts any more; nothing was stored.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The turn stopped at a checkpoint because the server shuts down. The message is stored, and
    /// the answer follows from another server, or after the next start.
    #[error("the server is shutting down; the message is stored and is answered later")]
    Stopped,
    /// The answer is to a question that is not asked any more; nothing was stored.
    #[error("the turn does not wait for this answer")]
    NotAsked,
    /// The turn has ended before, and can't be changed any more.
    #[error("the turn has ended")]
    Ended,
    /// Somebody wanted no answer any more; the user's message stays.
    #[error("the turn was cancelled")]
    Cancelled,
    /// The turn has failed before, with these words; the user's message stays.
    #[error("{0}")]
    Failed(String),
    /// The turn has passed to another server, which finishes it.
    #[error("the turn has passed to another server")]
    Lost,
    /// The agent could not go on. The turn has failed; the user's message stays.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent panicked. The turn has failed; the user's message stays.
    #[error("the agent crashed")]
    AgentCrashed,
    /// The agent wanted more than this many steps. The turn has failed; the user's message stays.
    #[error("the agent found no answer in {0} steps")]
    TooManySteps(usize),
    /// The turn was cut short this many times. It has failed; the user's message stays.
    #[error("the turn was cut short {0} times")]
    TooManyAttempts(u32),
    /// The turn took longer than this many seconds. It has failed; the user's message stays.
    #[error("the turn took longer than {0} seconds")]
    TooLong(u64),
    /// Someone else has changed the thread, so that the turn can't go on. It has failed; the user's
    /// message stays.
    #[error("the thread's latest checkpoint does not belong to the turn")]
    ForeignState,
    /// The conversation's metadata name an agent that this server does not have; nothing was stored.
    #[error("there is no agent `{0}` here")]
    NoAgent(String),
    /// The agent's state is of a version that this server does not know. Nothing was changed: servers
    /// that know it go on.
    #[error("the agent's state has version {stored}, and this server knows none after {known}")]
    NewerState {
        /// The version of the state.
        stored: u32,
        /// The latest that this server's agent knows.
        known: u32,
    },
    /// The agent's state is of an earlier version, and can't be made one of today's, for this reason.
    /// Nothing was changed.
    #[error("the agent's state can't be migrated: {0}")]
    NotMigrated(String),
    /// The storage refused or failed. What it had begun stays to be finished.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl TurnError {
    /// Whether the turn has failed for good, as opposed to not begun or still to be finished.
    pub(super) fn ends_turn(&self) -> bool {
        match self {
            Self::Agent(_)
            | Self::AgentCrashed
            | Self::TooManySteps(_)
            | Self::TooManyAttempts(_)
            | Self::TooLong(_)
            | Self::ForeignState => true,
            Self::Busy(_)
            | Self::QueueFull(_)
            | Self::KeyReused
            | Self::ShuttingDown
            | Self::Stopped
            | Self::NotAsked
            | Self::Ended
            | Self::Cancelled
            | Self::Failed(_)
            | Self::Lost
            | Self::NoAgent(_)
            | Self::NewerState { .. }
            | Self::NotMigrated(_)
            | Self::Storage(_) => false,
        }
    }

    /// Of a write of the owner of a turn: that somebody else owns it is no failure.
    pub(super) fn of_owner(error: Error) -> Self {
        match error {
            Error::Fenced { .. } => Self::Lost,
            Error::Conflict(
                ConflictKind::Turn(_) | ConflictKind::Message(_) | ConflictKind::EventBatch { .. },
            ) => Self::Lost,
            // The conversation was deleted.
            Error::NotFound { .. } => Self::Lost,
            error => Self::Storage(error),
        }
    }
}
