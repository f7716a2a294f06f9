//! The domain types as rows of SeaORM entities.

mod conversation;
pub(crate) mod idempotency_key;
mod message;
pub(crate) mod turn;
