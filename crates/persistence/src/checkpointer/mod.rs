//! LangGraph's checkpoint protocol on LangGraph's tables, by our own SQL.
//!
//! What both databases share is written once; where they differ, their texts stand side by side in
//! a [`Sql`]. On PostgreSQL `get`, `list`, `put`, `put_writes`, `threads` and
//! `delta_channel_history` are one statement each, so one round trip and one transaction.

mod delta;
mod fence;
mod group;
mod maintenance;
#[cfg(test)]
mod plans;
mod raw;
mod read;
mod row;
mod threads;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value as SqlValue};
use yai_agentkit_core::{
    CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer,
    DeltaChannelHistory, Fence, NewCheckpoint, NewWrites, Page, PruneStrategy, Result, Thread,
    ThreadCursor, ThreadId,
};

pub(crate) use self::group::Group;
pub use self::raw::{NewRawCheckpoint, RawCheckpoint, RawCheckpoints, RawValue};
use self::write::Write;
use crate::{connection::Connection, error::storage_error};

/// A statement on both databases. Both number their parameters `$1`, `$2`, ….
#[derive(Clone, Copy)]
pub(crate) struct Sql {
    pub(crate) postgres: &'static str,
    pub(crate) sqlite: &'static str,
}

impl Sql {
    /// One text for both.
    pub(crate) const fn same(sql: &'static str) -> Self {
        Self {
            postgres: sql,
            sqlite: sql,
        }
    }

    fn on(self, connection: &Connection) -> &'static str {
        if connection.is_postgres() {
            self.postgres
        } else {
            self.sqlite
        }
    }

    pub(crate) async fn rows(
        self,
        connection: &Connection,
        values: Vec<SqlValue>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        connection
            .query_all_raw(self.statement(connection, values))
            .await
    }

    pub(crate) async fn execute(
        self,
        connection: &Connection,
        values: Vec<SqlValue>,
    ) -> Result<u64, DbErr> {
        let result = connection
            .execute_raw(self.statement(connection, values))
            .await?;
        Ok(result.rows_affected())
    }

    pub(crate) fn statement(self, connection: &Connection, values: Vec<SqlValue>) -> Statement {
        let backend = connection.get_database_backend();
        Statement::from_sql_and_values(backend, self.on(connection), values)
    }
}

/// A [`Checkpointer`] on a pool or within a transaction.
#[derive(Clone)]
pub(crate) struct SqlCheckpointer {
    connection: Connection,
    /// Of a pool.
    group: Option<Group>,
    /// What every write asks.
    fence: Option<Fence>,
}

impl SqlCheckpointer {
    /// Writes in groups.
    pub(crate) fn on_pool(connection: Connection, group: Group) -> Self {
        Self {
            connection,
            group: Some(group),
            fence: None,
        }
    }

    /// Takes part in a transaction.
    pub(crate) fn within(transaction: Connection) -> Self {
        Self {
            connection: transaction,
            group: None,
            fence: None,
        }
    }

    async fn put_raw(&self, checkpoint: NewRawCheckpoint) -> Result<()> {
        self.write("put checkpoint", Write::Checkpoint(checkpoint))
            .await
    }

    async fn write(&self, operation: &'static str, write: Write) -> Result<()> {
        let written = match (self.fence, &self.group) {
            (Some(fence), _) => {
                return fence::write_fenced(&self.connection, operation, write, fence).await;
            }
            (None, Some(group)) => group.write(write).await,
            (None, None) => write::write(&self.connection, &[write]).await,
        };
        written.map_err(|error| storage_error(operation, error))
    }
}

#[async_trait]
impl Checkpointer for SqlCheckpointer {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        let found = read::get(&self.connection, selector).await?;
        found.map(RawCheckpoint::parse).transpose()
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        let found = read::list(&self.connection, query).await?;
        found.into_iter().map(RawCheckpoint::parse).collect()
    }

    async fn put(&self, checkpoint: NewCheckpoint) -> Result<CheckpointKey> {
        checkpoint.validate()?;
        let key = checkpoint.key();
        self.put_raw(row::to_raw(checkpoint)?).await?;
        Ok(key)
    }

    async fn put_writes(&self, writes: NewWrites) -> Result<()> {
        writes.validate()?;
        if writes.writes.is_empty() {
            return Ok(());
        }
        self.write("put writes", Write::Writes(writes)).await
    }

    async fn put_next(&self, checkpoint: NewCheckpoint) -> Result<CheckpointKey> {
        checkpoint.validate()?;
        let key = checkpoint.key();
        fence::put_next(&self.connection, row::to_raw(checkpoint)?, self.fence).await?;
        Ok(key)
    }

    fn fenced(&self, fence: Fence) -> Arc<dyn Checkpointer> {
        Arc::new(Self {
            fence: Some(fence),
            ..self.clone()
        })
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        fence::raise_epoch(&self.connection, thread_id, epoch).await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        maintenance::delete_thread(&self.connection, thread_id).await
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        maintenance::delete_for_runs(&self.connection, run_ids).await
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        maintenance::copy_thread(&self.connection, source, target).await
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        maintenance::prune(&self.connection, thread_ids, strategy).await
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        delta::history(&self.connection, selector, channels).await
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        threads::list(&self.connection, limit, after).await
    }
}
