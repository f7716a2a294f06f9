//! The contracts of AgentKit, the durable memory of stateful AI agents.
//!
//! An agent that can be trusted with long work remembers two things: what was said
//! ([`Conversation`], [`Message`], behind [`Repository`]) and what it was doing
//! ([`Checkpoint`], behind [`Checkpointer`]). This crate holds the traits, the domain types, the
//! one [`Error`] and an in-memory implementation ([`memory`]). It does no I/O;
//! `yai-agentkit-persistence` implements it on PostgreSQL and SQLite, and
//! `yai-agentkit-conformance` holds the suites that every back end must pass.
//!
//! ```
//! use yai_agentkit_core::{memory::MemoryStorage, Conversation, ListQuery, Stores};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let storage = MemoryStorage::default();
//! let conversation = storage.conversations().add(Conversation::titled("First chat")).await?;
//! let newest = storage.conversations().list(&ListQuery::default()).await?;
//! assert_eq!(newest.items, [conversation]);
//! # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
//! ```

pub mod access;
pub mod audit;
pub mod checkpoint;
mod clock;
pub mod conversation;
pub mod error;
mod id;
pub mod memory;
pub mod redaction;
pub mod retention;
pub mod storage;
pub mod store;
pub mod turn;
pub mod validate;

pub use checkpoint::{
    ChannelValue, Checkpoint, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple,
    Checkpointer, Fence, NewCheckpoint, NewWrites, PutOptions, ThreadState, Value,
};
pub use clock::Clock;
pub use conversation::{Conversation, Message, Role};
pub use error::{ConflictKind, Error, Result};
pub use id::{CheckpointId, ConversationId, MessageId, Namespace, ThreadId, TurnId};
pub use storage::{Entity, ListQuery, Repository, Storage, Stores, UnitOfWork};
pub use turn::{Turn, TurnStatus, TurnStore};
