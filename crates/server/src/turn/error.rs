use yai_agentkit_core::{ConversationId, Error};

use crate::agent::AgentError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// The conversation is in use; nothing was stored.
    #[error("conversation {0} is busy with another turn")]
    Busy(ConversationId),
    /// No turn starts any more; nothing was stored.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The turn stopped at a checkpoint because the server shuts down. The message is stored, and
    /// the answer follows after the next start.
    #[error("the server is shutting down; the message is stored and is answered after the restart")]
    Interrupted,
    /// The agent could not go on. The turn has failed; the user's message stays.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent panicked. The turn has failed; the user's message stays.
    #[error("the agent crashed")]
    AgentCrashed,
    /// The agent wanted more than this many steps. The turn has failed; the user's message stays.
    #[error("the agent found no answer in {0} steps")]
    TooManySteps(usize),
    /// Someone else has changed the thread, so that the turn can't go on. It has failed; the user's
    /// message stays.
    #[error("the thread's latest checkpoint does not belong to the turn")]
    ForeignState,
    /// The storage refused or failed. What it had begun stays to be finished.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl TurnError {
    /// Whether the turn has failed for good, as opposed to not begun or still to be finished.
    pub(super) fn ends_turn(&self) -> bool {
        match self {
            Self::Agent(_) | Self::AgentCrashed | Self::TooManySteps(_) | Self::ForeignState => {
                true
            }
            Self::Busy(_) | Self::ShuttingDown | Self::Interrupted | Self::Storage(_) => false,
        }
    }
}
