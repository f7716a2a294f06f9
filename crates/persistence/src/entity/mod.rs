//! The domain types as rows of SeaORM entities.

mod conversation;
mod message;
mod turn;
