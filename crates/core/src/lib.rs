//! The contracts of AgentKit, the durable memory of stateful AI agents.
//!
//! An agent that can be trusted with long work remembers two things: what was said
//! ([`Conversation`], [`Message`], behind [`Repository`]) and what it was doing
//! ([`Checkpoint`], behind [`Checkpointer`]). This crate holds the traits, the domain types, the
//! one [`Error`], an in-memory implementation ([`memory`]) and, behind the feature `conformance`,
//! the suites that every back end must pass. It does no I/O; `yai-agentkit-persistence`
//! implements it on PostgreSQL and SQLite.
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

mod checkpoint;
mod checkpointer;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod conversation;
mod error;

mod fence;
mod id;
mod idempotency;

pub mod memory;
mod message;
mod repository;
pub mod retention;
mod state;
mod storage;
mod turn;
pub mod validate;
mod value;

pub use checkpoint::{
    ChannelValue, Checkpoint, CheckpointMetadata, CheckpointSource, CheckpointTuple, PendingWrite,
    TASKS, Version,
};
pub use checkpointer::{
    ChannelWrite, CheckpointKey, CheckpointQuery, CheckpointSelector, Checkpointer,
    DeltaChannelHistory, NewCheckpoint, NewWrites, PruneStrategy, Thread, ThreadCursor, Values,
    special_write_index,
};
pub use clock::now;
pub use conversation::{Conversation, ConversationFilter};
pub use error::{BoxError, ConflictKind, Error, Outcome, Result};

pub use fence::{Fence, Parent, PutOptions};
pub use id::{
    CheckpointId, ConversationId, InConversation, InterruptId, MessageId, Namespace, OwnerId,
    ThreadId, TurnId,
};
pub use idempotency::{IdempotencyKey, IdempotencyKeyFilter};

pub use message::{Message, MessageFilter, Role};
pub use repository::{Change, Cursor, Entity, ListQuery, Order, Page, Repository, Start};
pub use state::{CheckpointerExt, ThreadState, join_lists};
pub use storage::{HasStores, Storage, Stores, UnitOfWork};
pub use turn::{
    Announcements, EventBatch, Interrupt, LatestBatches, Turn, TurnBegin, TurnChange, TurnFilter,
    TurnStatus, TurnStep, TurnStore,
};
pub use value::{EncodeError, Value};
