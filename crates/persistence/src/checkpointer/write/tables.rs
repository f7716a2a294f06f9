//! A transaction with an `INSERT` of several rows for each table: what SQLite takes, and Citus, which
//! finds the one shard of all rows by their thread.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use sea_orm::DbErr;
use sqlx::{Arguments, AssertSqlSafe, Encode, Type};
use yai_agentkit_core::{CheckpointKey, now};

use super::{
    super::{NewRawCheckpoint, RawValue, Sql, fence, threads::time_text},
    Rows, Write, WriteRow, not_encoded,
};
use crate::connection::Connection;

/// An `INSERT` of several rows.
struct Insert {
    into: &'static str,
    /// A `?` is a parameter.
    row: Sql,
    on_conflict: &'static str,
}

/// SQLite has no clock with microseconds; the process that writes lends it its own.
const THREADS: Insert = Insert {
    into: "threads (thread_id, updated_at)",
    row: Sql {
        postgres: "(?, clock_timestamp())",
        sqlite: "(?, ?)",
    },
    on_conflict: "(thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE excluded.updated_at > threads.updated_at",
};
/// One that is there is only locked.
const NEW_THREADS: Insert = Insert {
    on_conflict: "(thread_id) DO UPDATE SET updated_at = threads.updated_at WHERE false",
    ..THREADS
};
const BLOBS: Insert = Insert {
    into: "checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)",
    row: Sql::same("(?, ?, ?, ?, ?, ?)"),
    on_conflict: "DO NOTHING",
};
const CHECKPOINTS: Insert = Insert {
    into: "checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)",
    row: Sql {
        postgres: "(?, ?, ?, ?, ?::jsonb, ?::jsonb)",
        sqlite: "(?, ?, ?, ?, ?, ?)",
    },
    on_conflict: "(thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata",
};
const FIRST_WRITES: Insert = Insert {
    into: "checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)",
    row: Sql::same("(?, ?, ?, ?, ?, ?, ?, ?, ?)"),
    on_conflict: "DO NOTHING",
};
const LAST_WRITES: Insert = Insert {
    on_conflict: "(thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob",
    ..FIRST_WRITES
};

/// A parameter.
enum Value<'a> {
    Text(&'a str),
    TextOrNull(Option<&'a str>),
    Number(i32),
    Bytes(&'a [u8]),
    /// None where the database has a clock.
    Now(Option<&'a str>),
}

impl Insert {
    /// As many rows as one statement takes: each of these is one more text for the database to know.
    const ROWS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

    async fn execute<const N: usize>(
        &self,
        connection: &Connection,
        rows: Vec<[Value<'_>; N]>,
    ) -> Result<(), DbErr> {
        let mut rows = &rows[..];
        for at_once in Self::ROWS {
            while let Some((now, later)) = rows.split_at_checked(at_once) {
                let sql = self.sql(connection, at_once);
                match connection {
                    Connection::Postgres(postgres) => {
                        let arguments = arguments(now)?;
                        postgres.fetch_all(AssertSqlSafe(sql), arguments).await?;
                    }
                    Connection::Sqlite(sqlite) => sqlite.execute(sql, arguments(now)?).await?,
                }
                rows = later;
            }
        }
        Ok(())
    }

    fn sql(&self, connection: &Connection, rows: usize) -> String {
        let rows = vec![self.row.on(connection); rows].join(", ");
        let rows = if connection.is_postgres() {
            numbered(&rows)
        } else {
            rows
        };
        let (into, on_conflict) = (self.into, self.on_conflict);
        format!("INSERT INTO {into} VALUES {rows} ON CONFLICT {on_conflict}")
    }
}

fn arguments<A, const N: usize>(rows: &[[Value<'_>; N]]) -> Result<A, DbErr>
where
    A: Arguments + Default,
    for<'q> &'q str: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> Option<&'q str>: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> i32: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> &'q [u8]: Encode<'q, A::Database> + Type<A::Database>,
{
    let mut arguments = A::default();
    for value in rows.as_flattened() {
        let added = match *value {
            Value::Text(text) => arguments.add(text),
            Value::TextOrNull(text) => arguments.add(text),
            Value::Number(number) => arguments.add(number),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Now(time) => time.map_or(Ok(()), |time| arguments.add(time)),
        };
        added.map_err(not_encoded)?;
    }
    Ok(arguments)
}

/// With `$1`, `$2`, … for each `?`.
fn numbered(sql: &str) -> String {
    let mut numbered = String::new();
    for (number, part) in sql.split('?').enumerate() {
        if number > 0 {
            numbered.push_str(&format!("${number}"));
        }
        numbered.push_str(part);
    }
    numbered
}

pub(super) async fn write(connection: &Connection, writes: &[Write]) -> Result<Vec<bool>, DbErr> {
    let transaction = connection.begin().await?;
    let mut taken = HashMap::new();
    for write in writes {
        if let Some(fenced) = &write.fenced
            && let Entry::Vacant(thread) = taken.entry(&write.key().thread_id)
        {
            let is_taken = fence::take(&transaction, thread.key(), fenced).await?;
            thread.insert(is_taken);
        }
    }
    let is_admitted = |write: &Write| taken.get(&write.key().thread_id) != Some(&false);
    let rows = Rows::of(writes.iter().filter(|write| is_admitted(write)));
    for (_, events) in &rows.events {
        events.tell(&transaction).await?;
    }
    insert(&transaction, rows).await?;
    transaction.commit().await?;
    Ok(writes.iter().map(is_admitted).collect())
}

async fn insert(transaction: &Connection, rows: Rows<'_>) -> Result<(), DbErr> {
    let now = (!transaction.is_postgres()).then(|| time_text(now()));
    let with_checkpoint = rows.checkpoints.iter();
    let with_checkpoint: BTreeSet<_> = with_checkpoint
        .map(|new| new.key.thread_id.as_str())
        .collect();
    let without: Vec<_> = rows.threads.difference(&with_checkpoint).copied().collect();
    let with_checkpoint: Vec<_> = with_checkpoint.into_iter().collect();
    for (insert, threads) in [(THREADS, with_checkpoint), (NEW_THREADS, without)] {
        let threads = threads.iter();
        let rows = threads.map(|id| [Value::Text(id), Value::Now(now.as_deref())]);
        insert.execute(transaction, rows.collect()).await?;
    }
    let blobs = rows.blobs.iter().map(blob).collect();
    BLOBS.execute(transaction, blobs).await?;
    let checkpoints = rows.checkpoints.iter().map(checkpoint).collect();
    CHECKPOINTS.execute(transaction, checkpoints).await?;
    for (insert, rows) in [
        (FIRST_WRITES, rows.first_writes),
        (LAST_WRITES, rows.last_writes),
    ] {
        let rows = rows.iter().map(written).collect();
        insert.execute(transaction, rows).await?;
    }
    Ok(())
}

fn blob<'a>(&(key, stored): &(&'a CheckpointKey, &'a RawValue)) -> [Value<'a>; 6] {
    [
        Value::Text(key.thread_id.as_str()),
        Value::Text(key.namespace.as_str()),
        Value::Text(&stored.channel),
        Value::Text(&stored.version),
        Value::Text(stored.value.type_tag()),
        Value::Bytes(stored.value.bytes()),
    ]
}

fn checkpoint<'a>(new: &&'a NewRawCheckpoint) -> [Value<'a>; 6] {
    [
        Value::Text(new.key.thread_id.as_str()),
        Value::Text(new.key.namespace.as_str()),
        Value::Text(new.key.checkpoint_id.as_str()),
        Value::TextOrNull(new.parent.as_ref().map(|id| id.as_str())),
        Value::Text(&new.checkpoint),
        Value::Text(&new.metadata),
    ]
}

fn written<'a>(row: &WriteRow<'a>) -> [Value<'a>; 9] {
    [
        Value::Text(row.of.key.thread_id.as_str()),
        Value::Text(row.of.key.namespace.as_str()),
        Value::Text(row.of.key.checkpoint_id.as_str()),
        Value::Text(&row.of.task_id),
        Value::Text(&row.of.task_path),
        Value::Number(row.index),
        Value::Text(&row.write.channel),
        Value::Text(row.write.value.type_tag()),
        Value::Bytes(row.write.value.bytes()),
    ]
}
