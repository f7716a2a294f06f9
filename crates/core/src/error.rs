use std::borrow::Cow;

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
    #[error("{entity} {id} conflicts with what is stored")]
    Conflict {
        /// What kind of thing, as in `conversation`.
        entity: Cow<'static, str>,
        /// Its id.
        id: String,
    },
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
    /// The storage can't answer now; trying again can help. Whether a write happened is unknown,
    /// and repeating it is safe where its documentation says so.
    #[error("{operation}: the storage is unavailable, try again")]
    Unavailable {
        /// What was attempted.
        operation: Cow<'static, str>,
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

impl Error {
    /// [`Error::NotFound`] for `entity` with `id`.
    pub fn not_found(entity: impl Into<Cow<'static, str>>, id: impl ToString) -> Self {
        Self::NotFound {
            entity: entity.into(),
            id: id.to_string(),
        }
    }

    /// [`Error::Conflict`] for `entity` with `id`.
    pub fn conflict(entity: impl Into<Cow<'static, str>>, id: impl ToString) -> Self {
        Self::Conflict {
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
        source: impl Into<BoxError>,
    ) -> Self {
        Self::Unavailable {
            operation: operation.into(),
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
