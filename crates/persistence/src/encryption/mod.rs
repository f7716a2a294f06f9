//! Encryption at rest: what people and agents have said, and what agents know, is encrypted before it
//! goes to the database.
//!
//! Each tenant has keys of its own, wrapped by a [`MasterKey`] in `agent_data_keys`. A value is bound
//! to its place, so that one that was moved is refused. It happens at the contracts: who calls
//! [`Stores`](yai_agentkit_core::Stores) has plain values, the statements below have encrypted ones,
//! of the same types.

mod cells;
mod cipher;
mod keys;
mod master;
mod rewrite;
mod rows;

pub(crate) use self::{
    cells::COLUMNS,
    keys::{Keys, opening, refuse_encrypted},
    master::KeySource,
    rewrite::{all, copied},
    rows::{of_owner, of_value, unreadable},
};
pub use self::{
    cipher::KeyRing,
    keys::REFRESH,
    master::{LocalKeys, MasterKey},
    rewrite::Progress,
};
pub use zeroize::Zeroizing;

/// The error of who looks for what is encrypted.
pub(crate) fn not_searched(field: &'static str) -> yai_agentkit_core::Error {
    let reason = "can't be searched: it is encrypted, unless DB_ENCRYPTION_READABLE says otherwise";
    yai_agentkit_core::Error::invalid(field, reason)
}

/// The setting that names the master key.
pub(crate) const SETTING: &str = "DB_ENCRYPTION_KEY";

/// Why a value can't be decrypted: the source of [`Error::Unreadable`](yai_agentkit_core::Error).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// It stands where it does not belong, or was changed, or is of another key.
    #[error("it was not encrypted for this place with this key, or was changed")]
    Refused,
    /// It is not encrypted, but must be.
    #[error("it is not encrypted")]
    Unencrypted,
    /// The database has no key of this number.
    #[error("there is no key {0}")]
    UnknownKey(u32),
}

/// What is not encrypted, so that it can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readable {
    /// Nothing of what was said.
    Nothing,
    /// Titles and metadata of conversations.
    Titles,
    /// Those, and the words of messages.
    Messages,
}

/// What must be encrypted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Whether what is not encrypted is read.
    pub(crate) admits_plain: bool,
    pub(crate) readable: Readable,
}
