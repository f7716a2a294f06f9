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
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    TextOrNull(Option<&'a str>),
    Number(i32),
    Bytes(&'a [u8]),
    /// None where the database has a clock.
    Now(Option<&'a str>),
}

/// What is to be run one after the other: on SQLite all at once, since each call of its thread costs
/// more than a row.
struct Script<'a> {
    is_postgres: bool,
    statements: Vec<(String, Vec<Value<'a>>)>,
}

impl<'a> Script<'a> {
    /// How many rows one statement takes. Few sizes: each is a text of its own for the database to
    /// know, and of a script for SQLite every mixture of them.
    const POSTGRES_ROWS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
    const SQLITE_ROWS: [usize; 4] = [1, 4, 16, 64];

    fn add<const N: usize>(&mut self, insert: &Insert, rows: Vec<[Value<'a>; N]>) {
        let mut rows = &rows[..];
        while !rows.is_empty() {
            let (room, fill) = if self.is_postgres {
                let sizes = Self::POSTGRES_ROWS.into_iter();
                let size = sizes.filter(|size| *size <= rows.len()).max().unwrap_or(1);
                (size, size)
            } else {
                let most = Self::SQLITE_ROWS[3];
                let size = Self::SQLITE_ROWS
                    .into_iter()
                    .find(|size| rows.len() <= *size);
                (size.unwrap_or(most), rows.len().min(most))
            };
            let (now, later) = rows.split_at(fill);
            let mut values = now.as_flattened().to_vec();
            // What is left of the room is skipped.
            values.resize(room * N, Value::TextOrNull(None));
            self.statements
                .push((insert.sql(self.is_postgres, room), values));
            rows = later;
        }
    }

    async fn run(self, transaction: &Connection) -> Result<(), DbErr> {
        match transaction {
            Connection::Postgres(postgres) => {
                for (sql, values) in self.statements {
                    let arguments = arguments(&values)?;
                    postgres.fetch_all(AssertSqlSafe(sql), arguments).await?;
                }
                Ok(())
            }
            Connection::Sqlite(sqlite) => {
                let (sql, values): (Vec<_>, Vec<_>) = self.statements.into_iter().unzip();
                sqlite
                    .execute(sql.join(";\n"), arguments(&values.concat())?)
                    .await
            }
        }
    }
}

impl Insert {
    fn sql(&self, is_postgres: bool, rows: usize) -> String {
        let (into, on_conflict) = (self.into, self.on_conflict);
        let row = if is_postgres {
            self.row.postgres
        } else {
            self.row.sqlite
        };
        let rows = vec![row; rows].join(", ");
        if is_postgres {
            let rows = numbered(&rows);
            return format!("INSERT INTO {into} VALUES {rows} ON CONFLICT {on_conflict}");
        }
        // Whoever sees it fail undoes the transaction: nothing need be kept to undo it alone.
        format!(
            "INSERT OR FAIL INTO {into} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT {on_conflict}"
        )
    }
}

fn arguments<A>(values: &[Value<'_>]) -> Result<A, DbErr>
where
    A: Arguments + Default,
    for<'q> &'q str: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> Option<&'q str>: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> i32: Encode<'q, A::Database> + Type<A::Database>,
    for<'q> &'q [u8]: Encode<'q, A::Database> + Type<A::Database>,
{
    let mut arguments = A::default();
    for value in values {
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
    insert(&transaction, &rows).await?;
    transaction.commit().await?;
    Ok(writes.iter().map(is_admitted).collect())
}

async fn insert(transaction: &Connection, rows: &Rows<'_>) -> Result<(), DbErr> {
    let is_postgres = transaction.is_postgres();
    let now = (!is_postgres).then(|| time_text(now()));
    let mut script = Script {
        is_postgres,
        statements: Vec::new(),
    };
    let with_checkpoint = rows.checkpoints.iter();
    let with_checkpoint: BTreeSet<_> = with_checkpoint
        .map(|new| new.key.thread_id.as_str())
        .collect();
    let without: Vec<_> = rows.threads.difference(&with_checkpoint).copied().collect();
    let with_checkpoint: Vec<_> = with_checkpoint.into_iter().collect();
    for (insert, threads) in [(THREADS, with_checkpoint), (NEW_THREADS, without)] {
        let threads = threads.into_iter();
        let rows = threads.map(|id| [Value::Text(id), Value::Now(now.as_deref())]);
        script.add(&insert, rows.collect());
    }
    script.add(&BLOBS, rows.blobs.iter().map(blob).collect());
    script.add(
        &CHECKPOINTS,
        rows.checkpoints.iter().map(checkpoint).collect(),
    );
    script.add(
        &FIRST_WRITES,
        rows.first_writes.iter().map(written).collect(),
    );
    script.add(&LAST_WRITES, rows.last_writes.iter().map(written).collect());
    script.run(transaction).await
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
