//! LangGraph's checkpoint protocol on LangGraph's tables, by our own SQL.
//!
//! What both databases share is written once; where they differ, their texts stand side by side in
//! an [`Sql`](crate::sql::Sql). On PostgreSQL `get`, `list`, `put`, `put_writes`, `threads` and
//! `delta_channel_history` are one statement each, so one round trip and one transaction.

mod delta;
mod fence;
mod ledger;
mod maintenance;
#[cfg(test)]
mod plans;
mod raw;
mod read;
mod row;
mod statement;
mod threads;
pub(crate) mod trim;
mod turn;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use yai_agentkit_core::{
    CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer, Fence,
    Namespace, NewCheckpoint, NewWrites, PutOptions, Result, ThreadId, Value,
    checkpoint::{DeltaChannelHistory, Parent, PruneStrategy, Thread, ThreadCursor, ValueKey},
    storage::Page,
    turn::EventBatch,
};

pub use self::raw::{NewRawCheckpoint, RawCheckpoint, RawCheckpoints, RawValue};
use self::write::{Fenced, New};
pub(crate) use self::{ledger::SqlLedger, turn::TurnCall, write::Write};
use crate::{
    coalescer::{Call, Coalescer},
    connection::{Connection, retrying, retrying_undone},
    encryption::{Keys, opening},
    events,
};

const PUT_CHECKPOINT: &str = "put checkpoint";
const PUT_WRITES: &str = "put writes";

/// A [`Checkpointer`] on a pool or within a transaction, and the turns that begin and end with its
/// checkpoints.
#[derive(Clone)]
pub(crate) struct SqlCheckpointer {
    connection: Connection,
    /// None of who has values as they are stored.
    keys: Keys,
    /// Of a pool.
    writes: Option<Coalescer<Write>>,
    /// The same, on SQLite.
    turns: Option<Coalescer<TurnCall>>,
}

impl SqlCheckpointer {
    /// Writes in groups.
    pub(crate) fn on_pool(
        connection: Connection,
        writes: Coalescer<Write>,
        turns: Option<Coalescer<TurnCall>>,
    ) -> Self {
        Self {
            connection,
            keys: Keys::default(),
            writes: Some(writes),
            turns,
        }
    }

    /// Takes part in a transaction.
    pub(crate) fn within(transaction: Connection) -> Self {
        Self {
            connection: transaction,
            keys: Keys::default(),
            writes: None,
            turns: None,
        }
    }

    /// Encrypts and decrypts with these.
    pub(crate) fn with(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// A checkpoint as it is stored.
    async fn raw(&self, new: NewCheckpoint) -> Result<NewRawCheckpoint> {
        new.validate()?;
        self.sealed(row::to_raw(new)?).await
    }

    async fn sealed(&self, mut new: NewRawCheckpoint) -> Result<NewRawCheckpoint> {
        if let Some(ring) = self.keys.ring(&self.connection).await? {
            ring.seal_checkpoint(&mut new)?;
        }
        Ok(new)
    }

    async fn get_raw(&self, selector: &CheckpointSelector) -> Result<Option<RawCheckpoint>> {
        opening!(self.keys, &self.connection, |ring| {
            read::get(&self.connection, selector, ring).await
        })
    }

    async fn list_raw(&self, query: &CheckpointQuery) -> Result<Vec<RawCheckpoint>> {
        opening!(self.keys, &self.connection, |ring| {
            read::list(&self.connection, query, ring).await
        })
    }

    async fn put_raw(&self, new: NewRawCheckpoint, options: PutOptions) -> Result<()> {
        if options.parent == Parent::Latest {
            let fenced = fenced_with(options.fence, None)?;
            return fence::put_next(&self.connection, new, fenced).await;
        }
        self.write(PUT_CHECKPOINT, New::Checkpoint(new), options.fence, None)
            .await
    }

    async fn write(
        &self,
        operation: &'static str,
        new: New,
        fence: Option<Fence>,
        events: Option<&EventBatch>,
    ) -> Result<()> {
        let thread_id = new.key().thread_id.clone();
        let fenced = fenced_with(fence, events)?;
        let write = Write { new, fenced };
        let admitted = match &self.writes {
            Some(writes) if !write.raises() => writes.call(write).await,
            _ => {
                let written = Write::run(&self.connection, &[write]).await;
                written.map(|admitted| admitted == [true])
            }
        };
        let admitted = admitted.map_err(|error| events::refused(operation, events, error))?;
        fence::admitted(&self.connection, operation, &thread_id, admitted).await
    }
}

/// What a write with `events` asks of its thread.
fn fenced_with(fence: Option<Fence>, events: Option<&EventBatch>) -> Result<Option<Fenced>> {
    events.map_or(Ok(()), EventBatch::validate)?;
    let fenced = |fence: Fence| {
        Ok(Fenced {
            fence,
            epoch: fence.stored_epoch()?,
            events: events.map(Into::into),
        })
    };
    fence.map(fenced).transpose()
}

#[async_trait]
impl Checkpointer for SqlCheckpointer {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        let found = self.get_raw(selector).await?;
        found.map(RawCheckpoint::parse).transpose()
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        let found = self.list_raw(query).await?;
        found.into_iter().map(RawCheckpoint::parse).collect()
    }

    async fn values(
        &self,
        thread_id: &ThreadId,
        namespace: &Namespace,
        keys: &BTreeSet<ValueKey>,
    ) -> Result<BTreeMap<ValueKey, Value>> {
        opening!(self.keys, &self.connection, |ring| {
            read::values(&self.connection, (thread_id, namespace), keys, ring).await
        })
    }

    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey> {
        let key = checkpoint.key();
        self.put_raw(self.raw(checkpoint).await?, options).await?;
        Ok(key)
    }

    async fn put_writes(&self, mut writes: NewWrites, fence: Option<Fence>) -> Result<()> {
        writes.validate()?;
        if writes.writes.is_empty() {
            return Ok(());
        }
        if let Some(ring) = self.keys.ring(&self.connection).await? {
            ring.seal_writes(&mut writes);
        }
        self.write(PUT_WRITES, New::Writes(writes), fence, None)
            .await
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        fence::raise_epoch(&self.connection, thread_id, epoch).await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        let connection = &self.connection;
        retrying!(
            connection,
            maintenance::delete_thread(connection, thread_id)
        )
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        let connection = &self.connection;
        retrying!(
            connection,
            maintenance::delete_for_runs(connection, run_ids)
        )
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        let connection = &self.connection;
        // Done, it would refuse itself.
        retrying_undone!(
            connection,
            maintenance::copy_thread(connection, source, target, &self.keys)
        )
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        let connection = &self.connection;
        retrying!(
            connection,
            maintenance::prune(connection, thread_ids, strategy)
        )
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        opening!(self.keys, &self.connection, |ring| {
            delta::history(&self.connection, selector, channels, ring).await
        })
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        threads::list(&self.connection, limit, after).await
    }
}
