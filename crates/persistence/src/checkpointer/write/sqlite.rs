//! The transaction of SQLite: an `INSERT` of several rows for each table.

use std::{collections::BTreeSet, iter};

use sea_orm::DbErr;
use sqlx::{Arguments, error::BoxDynError, sqlite::SqliteArguments};
use yai_agentkit_core::{CheckpointKey, now};

use super::{
    super::{NewRawCheckpoint, RawValue, fence, threads::time_text},
    Rows, Write, WriteRow, not_encoded,
};
use crate::connection::{Connection, SqliteSource};

/// An `INSERT` of several rows.
struct Insert {
    into: &'static str,
    columns: usize,
    on_conflict: &'static str,
}

const THREADS: Insert = Insert {
    into: "threads (thread_id, updated_at)",
    columns: 2,
    on_conflict: "(thread_id) DO UPDATE SET updated_at = MAX(updated_at, excluded.updated_at)",
};
const NEW_THREADS: Insert = Insert {
    on_conflict: "DO NOTHING",
    ..THREADS
};
const BLOBS: Insert = Insert {
    into: "checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)",
    columns: 6,
    on_conflict: "DO NOTHING",
};
const CHECKPOINTS: Insert = Insert {
    into: "checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)",
    columns: 6,
    on_conflict: "(thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata",
};
const FIRST_WRITES: Insert = Insert {
    into: "checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)",
    columns: 9,
    on_conflict: "DO NOTHING",
};
const LAST_WRITES: Insert = Insert {
    on_conflict: "(thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob",
    ..FIRST_WRITES
};

impl Insert {
    /// As many rows as one statement takes: each of these is one more text for SQLite to know.
    const ROWS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

    /// Runs it for `rows`, of which `arguments` adds the columns.
    async fn execute<R>(
        &self,
        sqlite: &SqliteSource,
        mut rows: &[R],
        columns: impl Fn(&R, &mut SqliteArguments) -> Result<(), BoxDynError>,
    ) -> Result<(), DbErr> {
        for at_once in Self::ROWS {
            while let Some((now, later)) = rows.split_at_checked(at_once) {
                let mut arguments = SqliteArguments::default();
                for row in now {
                    columns(row, &mut arguments).map_err(not_encoded)?;
                }
                sqlite.execute(self.sql(at_once), arguments).await?;
                rows = later;
            }
        }
        Ok(())
    }

    fn sql(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let rows = vec![row; rows].join(", ");
        let (into, on_conflict) = (self.into, self.on_conflict);
        format!("INSERT INTO {into} VALUES {rows} ON CONFLICT {on_conflict}")
    }
}

pub(super) async fn write(connection: &Connection, writes: &[Write]) -> Result<Vec<bool>, DbErr> {
    let transaction = connection.begin().await?;
    let mut admitted = Vec::with_capacity(writes.len());
    for write in writes {
        admitted.push(match &write.fenced {
            None => true,
            Some(fenced) => fence::take(&transaction, &write.key().thread_id, fenced).await?,
        });
    }
    if let Connection::Sqlite(sqlite) = &*transaction {
        let written = iter::zip(writes, &admitted).filter(|(_, admitted)| **admitted);
        let rows = Rows::of(written.map(|(write, _)| write));
        for (_, events) in &rows.events {
            events.tell(&transaction).await?;
        }
        insert_sqlite(sqlite, rows).await?;
    }
    transaction.commit().await?;
    Ok(admitted)
}

async fn insert_sqlite(sqlite: &SqliteSource, rows: Rows<'_>) -> Result<(), DbErr> {
    let now = time_text(now());
    let with_checkpoint = rows.checkpoints.iter();
    let with_checkpoint: BTreeSet<_> = with_checkpoint
        .map(|new| new.key.thread_id.as_str())
        .collect();
    let without: Vec<_> = rows.threads.difference(&with_checkpoint).copied().collect();
    let with_checkpoint: Vec<_> = with_checkpoint.into_iter().collect();
    for (insert, threads) in [(THREADS, with_checkpoint), (NEW_THREADS, without)] {
        let columns = |id: &&str, arguments: &mut SqliteArguments| {
            arguments.add(*id)?;
            arguments.add(now.as_str())
        };
        insert.execute(sqlite, &threads, columns).await?;
    }

    let columns = |(key, stored): &(&CheckpointKey, &RawValue), arguments: &mut SqliteArguments| {
        arguments.add(key.thread_id.as_str())?;
        arguments.add(key.namespace.as_str())?;
        arguments.add(stored.channel.as_str())?;
        arguments.add(stored.version.as_str())?;
        arguments.add(stored.value.type_tag())?;
        arguments.add(stored.value.bytes())
    };
    BLOBS.execute(sqlite, &rows.blobs, columns).await?;

    let columns = |new: &&NewRawCheckpoint, arguments: &mut SqliteArguments| {
        arguments.add(new.key.thread_id.as_str())?;
        arguments.add(new.key.namespace.as_str())?;
        arguments.add(new.key.checkpoint_id.as_str())?;
        arguments.add(new.parent.as_ref().map(|id| id.as_str()))?;
        arguments.add(new.checkpoint.as_str())?;
        arguments.add(new.metadata.as_str())
    };
    CHECKPOINTS
        .execute(sqlite, &rows.checkpoints, columns)
        .await?;

    for (insert, rows) in [
        (FIRST_WRITES, rows.first_writes),
        (LAST_WRITES, rows.last_writes),
    ] {
        let columns = |row: &WriteRow<'_>, arguments: &mut SqliteArguments| {
            arguments.add(row.of.key.thread_id.as_str())?;
            arguments.add(row.of.key.namespace.as_str())?;
            arguments.add(row.of.key.checkpoint_id.as_str())?;
            arguments.add(row.of.task_id.as_str())?;
            arguments.add(row.of.task_path.as_str())?;
            arguments.add(row.index)?;
            arguments.add(row.write.channel.as_str())?;
            arguments.add(row.write.value.type_tag())?;
            arguments.add(row.write.value.bytes())
        };
        insert.execute(sqlite, &rows, columns).await?;
    }
    Ok(())
}
