//! A transaction with an `INSERT` of several rows for each table: what SQLite takes, and Citus, which
//! finds the one shard of all rows by their thread.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use sea_orm::DbErr;
use yai_agentkit_core::CheckpointKey;

use super::{
    super::{NewRawCheckpoint, RawValue, fence},
    Rows, Write, WriteRow,
};
use crate::{
    connection::Connection,
    sql::{Query, Sql, time_text},
};

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
/// Of the steps of turns: the time is right to the second, since it is indexed.
const STEPPED_THREADS: Insert = Insert {
    on_conflict: "(thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE substr(excluded.updated_at, 1, 19) > substr(threads.updated_at, 1, 19)",
    ..THREADS
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

/// A value of a row.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    TextOrNull(Option<&'a str>),
    Number(i32),
    Bytes(&'a [u8]),
}

/// What is to be run one after the other: on SQLite all at once, since each call of its thread costs
/// more than a row.
struct Script<'a> {
    connection: &'a Connection,
    /// One of several statements on SQLite.
    queries: Vec<Query>,
}

impl Script<'_> {
    /// How many rows one statement takes. Few sizes: each is a text of its own for the database to
    /// know, and of a script for SQLite every mixture of them.
    const POSTGRES_ROWS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
    const SQLITE_ROWS: [usize; 4] = [1, 4, 16, 64];

    fn add<const N: usize>(&mut self, insert: &Insert, rows: Vec<[Value<'_>; N]>) {
        let mut rows = &rows[..];
        while !rows.is_empty() {
            let (room, fill) = if self.connection.is_postgres() {
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
            // What is left of the room is skipped.
            let nothing = [Value::TextOrNull(None); N];
            let rest = std::iter::repeat_n(&nothing, room - fill);
            insert.write(self.next(), now.iter().chain(rest));
            rows = later;
        }
    }

    /// Where the next statement goes.
    fn next(&mut self) -> &mut Query {
        if self.connection.is_postgres() || self.queries.is_empty() {
            // Most of ours fit.
            let text = String::with_capacity(2048);
            self.queries.push(Query::new(self.connection, text));
        } else if let Some(script) = self.queries.last_mut() {
            script.push_str(";\n");
        }
        self.queries.last_mut().expect("it was just added")
    }
}

impl Insert {
    fn write<'a, const N: usize>(
        &self,
        query: &mut Query,
        rows: impl Iterator<Item = &'a [Value<'a>; N]>,
    ) {
        let is_postgres = query.is_for_postgres();
        let (into, on_conflict) = (self.into, self.on_conflict);
        // On SQLite, whoever sees it fail undoes the transaction: nothing need be kept to undo it
        // alone.
        let (begin, row, end) = if is_postgres {
            ("INSERT INTO", self.row.postgres, "")
        } else {
            (
                "INSERT OR FAIL INTO",
                self.row.sqlite,
                ") WHERE column1 IS NOT NULL",
            )
        };
        let values = if is_postgres {
            "VALUES "
        } else {
            "SELECT * FROM (VALUES "
        };
        for part in [begin, " ", into, "\n", values] {
            query.push_str(part);
        }
        for (number, values) in rows.enumerate() {
            if number > 0 {
                query.push_str(", ");
            }
            let mut values = values.iter();
            for (number, part) in row.split('?').enumerate() {
                if number > 0 {
                    let value = values.next().unwrap_or(&Value::TextOrNull(None));
                    value.push_to(query);
                }
                query.push_str(part);
            }
        }
        for part in [end, "\nON CONFLICT ", on_conflict] {
            query.push_str(part);
        }
    }
}

impl Value<'_> {
    fn push_to(self, query: &mut Query) {
        match self {
            Self::Text(text) => query.push_bind(text),
            Self::TextOrNull(text) => query.push_bind(text),
            Self::Number(number) => query.push_bind(number),
            Self::Bytes(bytes) => query.push_bind(bytes),
        };
    }
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
        events.append_once(&transaction).await?;
    }
    for query in script(&transaction, &rows).queries {
        query.execute(&transaction).await?;
    }
    transaction.commit().await?;
    Ok(writes.iter().map(is_admitted).collect())
}

fn script<'a>(transaction: &'a Connection, rows: &Rows<'_>) -> Script<'a> {
    // Only where the database has no clock.
    let now = time_text(transaction.now());
    let mut script = Script {
        connection: transaction,
        queries: Vec::new(),
    };
    let with_checkpoint = rows.checkpoints.iter();
    let with_checkpoint: BTreeSet<_> = with_checkpoint
        .map(|new| new.key.thread_id.as_str())
        .collect();
    let without: Vec<_> = rows.threads.difference(&with_checkpoint).copied().collect();
    let is_step = |id: &&str| !transaction.is_postgres() && rows.held.contains_key(id);
    let (stepped, put) = with_checkpoint.into_iter().partition(is_step);
    for (insert, threads) in [
        (THREADS, put),
        (STEPPED_THREADS, stepped),
        (NEW_THREADS, without),
    ] {
        let threads = threads.into_iter();
        let rows = threads.map(|id| [Value::Text(id), Value::Text(&now)]);
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
    script
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
