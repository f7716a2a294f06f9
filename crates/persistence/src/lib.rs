//! AgentKit's memory on PostgreSQL and SQLite.
//!
//! [`Database`] implements [`Storage`](yai_agentkit_core::Storage): application code connects once
//! and from there depends on the traits of `yai-agentkit-core` alone.

mod config;
mod database;
mod migration;

pub use config::DatabaseConfig;
pub use database::Database;
pub use migration::{Migration, MigrationState};
