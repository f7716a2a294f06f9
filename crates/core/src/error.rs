//! What can go wrong, as types.

use std::{borrow::Cow, fmt};

use uuid::Uuid;

use crate::{CheckpointId, MessageId, ThreadId, TurnId};

/// A boxed error, the kept cause of an [`Error`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of every operation of AgentKit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one public error, by what the caller can do about it.
///
/// `Display` never holds the cause's text, SQL or a secret: the cause is in
/// [`source`](std::error::Error::source), for logs. Database errors are classified by their code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for, or what the new row refers to, does not exist.
    #[error("{entity} {id} does not exist")]
    NotFound {
        /// What kind of thing, as in `conversation`.
        entity: Cow<'static, str>,
        /// Its id.
        id: String,
    },
    /// The write contradicts what is stored: a duplicate id, a turn that is already running.
    #[error("{0} conflicts with what is stored")]
    Conflict(ConflictKind),
    /// The thread has passed to another owner, or is gone; see [`Fence`](crate::Fence). Nothing
    /// was written, and trying again won't help.
    #[error("thread {thread} has passed to another owner (epoch {epoch})")]
    Fenced {
        /// The thread's id.
        thread: String,
        /// The thread's epoch, 0 where it does not exist.
        epoch: u64,
    },
    /// The input can't be stored. Nothing was written.
    #[error("{field}: {reason}")]
    InvalidInput {
        /// The field at fault.
        field: Cow<'static, str>,
        /// What is wrong and what is allowed.
        reason: Cow<'static, str>,
    },
    /// A setting, or the state of the installation, must be changed by its operator.
    #[error("{setting}: {reason}")]
    Configuration {
        /// The setting at fault, as the operator writes it (`DB_MAX_CONNECTIONS`).
        setting: Cow<'static, str>,
        /// What is wrong and what to do.
        reason: Cow<'static, str>,
    },
    /// The storage can't answer now; trying again can help. Where the outcome of a write is unknown,
    /// repeating it is safe if its documentation says so.
    #[error("{operation}: the storage is unavailable, try again")]
    Unavailable {
        /// What was attempted.
        operation: Cow<'static, str>,
        /// What became of it.
        outcome: Outcome,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// What is stored can't be read: another program has written or damaged it. Trying again won't
    /// mend it; deleting what it belongs to works.
    #[error("{what}: what is stored can't be read")]
    Unreadable {
        /// What was to be read.
        what: Cow<'static, str>,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The storage failed in a way that trying again won't mend.
    #[error("{operation}: the storage failed")]
    Backend {
        /// What was attempted.
        operation: Cow<'static, str>,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

/// What a write contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConflictKind {
    /// The turn is not as it was seen to be, its id is taken, or another one of its conversation
    /// runs.
    Turn(TurnId),
    /// The id of the message is taken.
    Message(MessageId),
    /// The key was used before.
    IdempotencyKey(Uuid),
    /// The turn has other events under this sequence.
    EventBatch {
        /// The turn.
        turn: TurnId,
        /// The sequence.
        sequence: u64,
    },
    /// The thread exists.
    Thread(ThreadId),
    /// Another checkpoint than the expected one is the latest of its namespace.
    LatestCheckpoint(Option<CheckpointId>),
    /// The id of any other row, or another unique value of it, is taken; or rows refer to it that
    /// is to be deleted.
    Row {
        /// Its kind, as in `conversation`.
        entity: &'static str,
        /// Its id.
        id: String,
    },
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn(id) => write!(f, "turn {id}"),
            Self::Message(id) => write!(f, "message {id}"),
            Self::IdempotencyKey(id) => write!(f, "idempotency key {id}"),
            Self::EventBatch { turn, sequence } => {
                write!(f, "event batch {sequence} of turn {turn}")
            }
            Self::Thread(id) => write!(f, "thread {id}"),
            Self::LatestCheckpoint(Some(id)) => write!(f, "latest checkpoint {id}"),
            Self::LatestCheckpoint(None) => f.write_str("that there is no checkpoint"),
            Self::Row { entity, id } => write!(f, "{entity} {id}"),
        }
    }
}

/// Whether something that failed was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed.
    NotDone,
    /// The connection broke before the answer: it may or may not have been done.
    Unknown,
}

impl Error {
    /// [`Error::NotFound`] for `entity` with `id`.
    pub fn not_found(entity: impl Into<Cow<'static, str>>, id: impl ToString) -> Self {
        Self::NotFound {
            entity: entity.into(),
            id: id.to_string(),
        }
    }

    /// [`Error::InvalidInput`] of `field`.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::InvalidInput {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// [`Error::Configuration`] of `setting`.
    pub fn configuration(
        setting: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Configuration {
            setting: setting.into(),
            reason: reason.into(),
        }
    }

    /// [`Error::Unavailable`] in `operation`.
    pub fn unavailable(
        operation: impl Into<Cow<'static, str>>,
        outcome: Outcome,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::Unavailable {
            operation: operation.into(),
            outcome,
            source: source.into(),
        }
    }

    /// [`Error::Unreadable`] of `what`.
    pub fn unreadable(what: impl Into<Cow<'static, str>>, source: impl Into<BoxError>) -> Self {
        Self::Unreadable {
            what: what.into(),
            source: source.into(),
        }
    }

    /// [`Error::Backend`] in `operation`.
    pub fn backend(operation: impl Into<Cow<'static, str>>, source: impl Into<BoxError>) -> Self {
        Self::Backend {
            operation: operation.into(),
            source: source.into(),
        }
    }
}
