//! The domain types as rows of SeaORM entities.

pub(crate) mod api_key;
pub(crate) mod conversation;
pub(crate) mod idempotency_key;
pub(crate) mod message;
pub(crate) mod turn;
