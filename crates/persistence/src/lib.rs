//! AgentKit's memory on PostgreSQL and SQLite.
//!
//! [`Database`] implements [`Storage`](yai_agentkit_core::Storage): application code connects once
//! and from there depends on the traits of `yai-agentkit-core` alone.

mod audit;
mod branch;
mod checkpointer;
mod coalescer;
mod config;
mod connection;
mod conninfo;
mod database;
pub mod encryption;
mod entity;
mod error;
mod events;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod golden;
mod lease;
mod migration;
mod open;
mod part;
mod precision;
mod presence;
mod redaction;
mod repository;
mod retention;
mod search;
pub mod setting;
mod sql;
mod store;
mod stores;
mod tenancy;
mod vacuum;

pub use checkpointer::{NewRawCheckpoint, RawCheckpoint, RawCheckpoints, RawValue};
pub use config::DatabaseConfig;
pub use database::{Database, DatabaseUnitOfWork};
pub use migration::{Migration, MigrationState};
pub use repository::StoredEntity;
/// In the version that [`StoredEntity`] takes.
pub use sea_orm;
/// In the version that [`Database::migrate_with`] takes.
pub use sea_orm_migration;

/// Compiles and runs the code in the READMEs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../../../README.zh-CN.md")]
struct Readme;
