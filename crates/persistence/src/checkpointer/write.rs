//! `put` and `put_writes`: the hot path. What is written at once is one statement on PostgreSQL, and
//! one transaction on SQLite.
//!
//! Each begins with the threads' rows in `threads`, so that the writers of one thread, and who
//! prunes or deletes it, come one after the other. Only a checkpoint changes a row that is there:
//! its time is indexed, so that a change costs two entries of indexes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    iter,
};

use sea_orm::DbErr;
use sqlx::{
    Arguments, Encode, Postgres, Row, Type, error::BoxDynError, postgres::PgArguments,
    sqlite::SqliteArguments,
};
use yai_agentkit_core::{ChannelWrite, CheckpointKey, Fence, NewWrites, now};

use super::{NewRawCheckpoint, RawValue, fence, threads::time_text};
use crate::{
    connection::{Connection, PostgresSource, SqliteSource, retrying},
    error::{from_sqlx, is_unique_violation},
    events::EventRow,
};

/// One call of `put` or `put_writes`.
pub(super) struct Write {
    pub(super) new: New,
    /// What it asks of its thread.
    pub(super) fenced: Option<Fenced>,
}

/// What is to be stored. The latter has writes.
pub(super) enum New {
    Checkpoint(NewRawCheckpoint),
    Writes(NewWrites),
}

/// A write that its thread may refuse.
pub(super) struct Fenced {
    pub(super) fence: Fence,
    /// That of the fence.
    pub(super) epoch: i64,
    /// What is stored with a checkpoint.
    pub(super) events: Option<EventRow>,
}

impl Write {
    pub(super) fn key(&self) -> &CheckpointKey {
        self.new.key()
    }

    pub(super) fn fence(&self) -> Option<Fence> {
        self.fenced.as_ref().map(|fenced| fenced.fence)
    }

    /// Whether it asks what it changes, so that a second attempt would refuse itself.
    pub(super) fn raises(&self) -> bool {
        matches!(self.fence(), Some(Fence::Raise(_)))
    }

    /// What no other write of the same statement may have.
    pub(super) fn place(&self) -> (&CheckpointKey, Option<&str>) {
        match &self.new {
            New::Checkpoint(new) => (&new.key, None),
            New::Writes(new) => (&new.key, Some(&new.task_id)),
        }
    }

    /// About as many as go over the wire.
    pub(super) fn bytes(&self) -> usize {
        let events = self.events().map_or(0, |events| events.events.len());
        events
            + match &self.new {
                New::Checkpoint(new) => {
                    let values = new.values.iter().map(|stored| stored.value.bytes().len());
                    new.checkpoint.len() + new.metadata.len() + values.sum::<usize>()
                }
                New::Writes(new) => {
                    let values = new.writes.iter().map(|write| write.value.bytes().len());
                    values.sum()
                }
            }
    }

    fn events(&self) -> Option<&EventRow> {
        self.fenced.as_ref()?.events.as_ref()
    }
}

impl New {
    pub(super) fn key(&self) -> &CheckpointKey {
        match self {
            Self::Checkpoint(new) => &new.key,
            Self::Writes(new) => &new.key,
        }
    }
}

pub(super) const POSTGRES_PUT: &str = "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.* FROM thread, unnest($7::text[], $8::text[], $9::text[], $10::bytea[]) b
    ON CONFLICT DO NOTHING
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT $1, $2, $3, $4, $5::jsonb, $6::jsonb FROM thread
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata";

/// A checkpoint, and of the same thread and namespace what one task wrote: what LangGraph stores
/// at the end of a superstep. Half the work of a group of the two.
pub(super) const POSTGRES_STEP: &str = "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.* FROM thread, unnest($7::text[], $8::text[], $9::text[], $10::bytea[]) b
    ON CONFLICT DO NOTHING
), writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $11, $12, $13, w.*
    FROM thread, unnest($14::int[], $15::text[], $16::text[], $17::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT $1, $2, $3, $4, $5::jsonb, $6::jsonb FROM thread
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata";

macro_rules! postgres_put_writes {
    ($conflict:literal) => {
        concat!(
            "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at WHERE false
    RETURNING 1
), locked AS MATERIALIZED (
    SELECT count(*) FROM thread
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT $1, $2, $3, $4, $5, w.* FROM locked, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
            $conflict
        )
    };
}

pub(super) const POSTGRES_FIRST_WRITE_STAYS: &str = postgres_put_writes!("DO NOTHING");
pub(super) const POSTGRES_LAST_WRITE_COUNTS: &str = postgres_put_writes!(
    "DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob"
);

macro_rules! last_writes {
    ($admitted:literal) => {
        concat!(
            ", last_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($24::text[], $25::text[], $26::text[], $27::text[],
        $28::text[], $29::int[], $30::text[], $31::text[], $32::bytea[]) r (thread_id)",
            $admitted,
            "
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
)"
        )
    };
}

/// Several writes of any threads, whose rows `$lock` locks: `locked` is one row then. `$admitted`
/// says which rows are written, `$last_writes` are those that replace others, `$end` is what follows
/// the insert of the checkpoints.
macro_rules! postgres_group {
    ($lock:literal, $admitted:literal, $last_writes:expr, $checkpoints:literal, $end:literal) => {
        concat!(
            "WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest($1::text[]) u (id)
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ($2::text[])
    RETURNING 1
), ",
            $lock,
            ", blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked,
        unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[])
            r (thread_id)",
            $admitted,
            "
    ON CONFLICT DO NOTHING
), first_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($15::text[], $16::text[], $17::text[], $18::text[],
        $19::text[], $20::int[], $21::text[], $22::text[], $23::bytea[]) r (thread_id)",
            $admitted,
            "
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)",
            $last_writes,
            $checkpoints,
            "
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
FROM locked, unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
    r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata)",
            $admitted,
            "
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata",
            $end
        )
    };
}

/// Writes without a fence, none of which replaces others. `$1`, all threads, is sorted, so that two
/// of these never wait for each other in a ring; and who holds one of the threads for long holds up
/// the others only for a moment. `$2` are the threads with a checkpoint.
pub(super) const POSTGRES_GROUP: &str = postgres_group!(
    "locked AS MATERIALIZED (SELECT count(*) FROM thread)",
    "",
    "",
    "",
    ""
);

/// As [`POSTGRES_GROUP`], with writes that replace others: a table more to be opened.
pub(super) const POSTGRES_REPLACING_GROUP: &str = postgres_group!(
    "locked AS MATERIALIZED (SELECT count(*) FROM thread)",
    "",
    last_writes!(""),
    "",
    ""
);

/// Among them writes that hold a thread, of `$33`, with an epoch, of `$34`; `$1` are the others.
/// Returns the threads whose epoch is another: nothing of theirs is written. Each thread is locked
/// by its key, in the order of the arrays.
pub(super) const POSTGRES_FENCED_GROUP: &str = postgres_group!(
    "held AS MATERIALIZED (
    SELECT t.thread_id
    FROM (SELECT count(*) FROM thread) before, unnest($33::text[], $34::bigint[]) u (id, epoch)
    CROSS JOIN LATERAL (
        SELECT thread_id FROM threads WHERE thread_id = u.id AND epoch = u.epoch FOR UPDATE
    ) t
), touched AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = ANY (ARRAY(SELECT thread_id FROM held WHERE thread_id = ANY ($2::text[])))
), locked AS MATERIALIZED (
    SELECT ARRAY(
        SELECT u.id FROM unnest($33::text[]) u (id)
        WHERE u.id NOT IN (SELECT thread_id FROM held)
    ) AS refused
), told AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT r.conversation_id, r.turn_id, r.sequence, r.events::json, now()
    FROM locked, unnest($35::text[], $36::uuid[], $37::uuid[], $38::bigint[], $39::text[])
        r (thread_id, conversation_id, turn_id, sequence, events)
    WHERE r.thread_id <> ALL (refused) AND r.events IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = r.conversation_id AND e.turn_id = r.turn_id
            AND e.sequence = r.sequence
    )
)",
    " WHERE r.thread_id <> ALL (refused)",
    last_writes!(" WHERE r.thread_id <> ALL (refused)"),
    ", written AS (",
    ") SELECT unnest(refused) FROM locked"
);

/// Stores all that their fences admit, or none, and returns whose do. No two of them may have one
/// [`place`](Write::place); those of one thread have one fence, and one that raises is alone.
pub(super) async fn write(connection: &Connection, writes: &[Write]) -> Result<Vec<bool>, DbErr> {
    match connection {
        Connection::Postgres(postgres) => {
            if writes.iter().any(Write::raises) {
                return write_postgres(postgres, writes).await;
            }
            // On another connection where this one was lost: what is there may be written again.
            let written = retrying!(connection, write_postgres(postgres, writes));
            match written {
                // Events that were told while this waited for their thread: now they show.
                Err(error) if is_unique_violation(&error) && !connection.is_transaction() => {
                    write_postgres(postgres, writes).await
                }
                written => written,
            }
        }
        Connection::Sqlite(_) => write_sqlite(connection, writes).await,
    }
}

async fn write_postgres(postgres: &PostgresSource, writes: &[Write]) -> Result<Vec<bool>, DbErr> {
    match writes {
        [Write { new, fenced: None }] => {
            let (sql, arguments) = match new {
                New::Checkpoint(new) => (POSTGRES_PUT, put_arguments(new)),
                New::Writes(new) if new.replaces() => {
                    (POSTGRES_LAST_WRITE_COUNTS, put_writes_arguments(new))
                }
                New::Writes(new) => (POSTGRES_FIRST_WRITE_STAYS, put_writes_arguments(new)),
            };
            postgres.fetch_all(sql, arguments?.0).await?;
            Ok(vec![true])
        }
        [
            Write {
                new,
                fenced: Some(fenced),
            },
        ] => {
            let (sql, arguments) = fence::statement(new, fenced)?;
            let admitted = postgres.fetch_all(sql, arguments.0).await?;
            Ok(vec![!admitted.is_empty()])
        }
        [
            Write {
                new: New::Checkpoint(new),
                fenced: None,
            },
            Write {
                new: New::Writes(writes),
                fenced: None,
            },
        ]
        | [
            Write {
                new: New::Writes(writes),
                fenced: None,
            },
            Write {
                new: New::Checkpoint(new),
                fenced: None,
            },
        ] if is_step(new, writes) => {
            let arguments = step_arguments(new, writes)?;
            postgres.fetch_all(POSTGRES_STEP, arguments.0).await?;
            Ok(vec![true; 2])
        }
        _ if writes.iter().all(|write| write.fenced.is_none()) => {
            let (sql, arguments) = group_statement(&Rows::of(writes))?;
            postgres.fetch_all(sql, arguments.0).await?;
            Ok(vec![true; writes.len()])
        }
        _ => {
            let arguments = fenced_group_arguments(writes)?;
            let rows = postgres.fetch_all(POSTGRES_FENCED_GROUP, arguments.0);
            let refused = rows.await?.into_iter().map(|row| row.try_get(0));
            let refused: HashSet<String> = refused.collect::<Result<_, _>>().map_err(from_sqlx)?;
            let admits = |write: &Write| !refused.contains(write.key().thread_id.as_str());
            Ok(writes.iter().map(admits).collect())
        }
    }
}

/// The rows of some writes, table by table and column by column.
#[derive(Default)]
struct Rows<'a> {
    /// Those without a fence. In the order of their bytes, as the next.
    threads: BTreeSet<&'a str>,
    /// Those with one, and their epoch.
    held: BTreeMap<&'a str, i64>,
    /// With the thread.
    events: Vec<(&'a str, &'a EventRow)>,
    checkpoints: Vec<&'a NewRawCheckpoint>,
    blobs: Vec<(&'a CheckpointKey, &'a RawValue)>,
    first_writes: Vec<WriteRow<'a>>,
    last_writes: Vec<WriteRow<'a>>,
}

struct WriteRow<'a> {
    of: &'a NewWrites,
    index: i32,
    write: &'a ChannelWrite,
}

impl<'a> Rows<'a> {
    fn of(writes: impl IntoIterator<Item = &'a Write>) -> Self {
        let mut rows = Self::default();
        for write in writes {
            let thread = write.key().thread_id.as_str();
            match &write.fenced {
                None => drop(rows.threads.insert(thread)),
                Some(fenced) => {
                    rows.held.insert(thread, fenced.epoch);
                    let events = fenced.events.iter();
                    rows.events.extend(events.map(|events| (thread, events)));
                }
            }
            match &write.new {
                New::Checkpoint(new) => {
                    rows.checkpoints.push(new);
                    let values = new.values.iter();
                    rows.blobs.extend(values.map(|value| (&new.key, value)));
                }
                New::Writes(new) => {
                    let own = new.rows().into_iter();
                    let own = own.map(|(index, write)| WriteRow {
                        of: new,
                        index,
                        write,
                    });
                    if new.replaces() {
                        rows.last_writes.extend(own);
                    } else {
                        rows.first_writes.extend(own);
                    }
                }
            }
        }
        rows
    }
}

pub(super) fn put_arguments(new: &NewRawCheckpoint) -> Result<PostgresArguments, DbErr> {
    let mut arguments = PostgresArguments::default();
    let key = &new.key;
    arguments.add(key.thread_id.as_str())?;
    arguments.add(key.namespace.as_str())?;
    arguments.add(key.checkpoint_id.as_str())?;
    arguments.add(new.parent.as_ref().map(|id| id.as_str()))?;
    arguments.add(new.checkpoint.as_str())?;
    arguments.add(new.metadata.as_str())?;
    let values = || new.values.iter();
    arguments.column(values(), |stored| stored.channel.as_str())?;
    arguments.column(values(), |stored| stored.version.as_str())?;
    arguments.column(values(), |stored| stored.value.type_tag())?;
    arguments.column(values(), |stored| stored.value.bytes())?;
    Ok(arguments)
}

pub(super) fn put_writes_arguments(new: &NewWrites) -> Result<PostgresArguments, DbErr> {
    let mut arguments = PostgresArguments::default();
    arguments.add(new.key.thread_id.as_str())?;
    arguments.add(new.key.namespace.as_str())?;
    arguments.add_writes(new)?;
    Ok(arguments)
}

/// Whether [`POSTGRES_STEP`] stores both.
fn is_step(new: &NewRawCheckpoint, writes: &NewWrites) -> bool {
    let (put, of) = (&new.key, &writes.key);
    put.thread_id == of.thread_id && put.namespace == of.namespace && !writes.replaces()
}

fn step_arguments(new: &NewRawCheckpoint, writes: &NewWrites) -> Result<PostgresArguments, DbErr> {
    let mut arguments = put_arguments(new)?;
    arguments.add_writes(writes)?;
    Ok(arguments)
}

fn group_statement(rows: &Rows<'_>) -> Result<(&'static str, PostgresArguments), DbErr> {
    let mut arguments = arguments_of(rows)?;
    if rows.last_writes.is_empty() {
        return Ok((POSTGRES_GROUP, arguments));
    }
    arguments.add_rows(&rows.last_writes)?;
    Ok((POSTGRES_REPLACING_GROUP, arguments))
}

fn fenced_group_arguments(writes: &[Write]) -> Result<PostgresArguments, DbErr> {
    let rows = Rows::of(writes);
    let mut arguments = arguments_of(&rows)?;
    arguments.add_rows(&rows.last_writes)?;
    arguments.column(&rows.held, |(id, _)| *id)?;
    arguments.column(&rows.held, |(_, epoch)| *epoch)?;
    let events = || rows.events.iter();
    arguments.column(events(), |(thread, _)| *thread)?;
    arguments.column(events(), |(_, batch)| batch.conversation_id)?;
    arguments.column(events(), |(_, batch)| batch.turn_id)?;
    arguments.column(events(), |(_, batch)| batch.sequence)?;
    arguments.column(events(), |(_, batch)| batch.events.as_str())?;
    Ok(arguments)
}

/// Of all but the last writes.
fn arguments_of(rows: &Rows<'_>) -> Result<PostgresArguments, DbErr> {
    let mut arguments = PostgresArguments::default();
    arguments.column(&rows.threads, |id| *id)?;
    let new = || rows.checkpoints.iter();
    arguments.column(new(), |new| new.key.thread_id.as_str())?;
    arguments.column(new(), |new| new.key.thread_id.as_str())?;
    arguments.column(new(), |new| new.key.namespace.as_str())?;
    arguments.column(new(), |new| new.key.checkpoint_id.as_str())?;
    arguments.column(new(), |new| new.parent.as_ref().map(|id| id.as_str()))?;
    arguments.column(new(), |new| new.checkpoint.as_str())?;
    arguments.column(new(), |new| new.metadata.as_str())?;
    let blobs = || rows.blobs.iter();
    arguments.column(blobs(), |(key, _)| key.thread_id.as_str())?;
    arguments.column(blobs(), |(key, _)| key.namespace.as_str())?;
    arguments.column(blobs(), |(_, stored)| stored.channel.as_str())?;
    arguments.column(blobs(), |(_, stored)| stored.version.as_str())?;
    arguments.column(blobs(), |(_, stored)| stored.value.type_tag())?;
    arguments.column(blobs(), |(_, stored)| stored.value.bytes())?;
    arguments.add_rows(&rows.first_writes)?;
    Ok(arguments)
}

/// Written out as they come: nothing is copied in between.
#[derive(Default)]
pub(crate) struct PostgresArguments(pub(super) PgArguments);

impl PostgresArguments {
    pub(crate) fn add<'q, T: Encode<'q, Postgres> + Type<Postgres> + 'q>(
        &mut self,
        value: T,
    ) -> Result<(), DbErr> {
        self.0.add(value).map_err(not_encoded)
    }

    /// All but the thread and the namespace.
    fn add_writes(&mut self, new: &NewWrites) -> Result<(), DbErr> {
        self.add(new.key.checkpoint_id.as_str())?;
        self.add(new.task_id.as_str())?;
        self.add(new.task_path.as_str())?;
        let rows = new.rows();
        self.column(&rows, |(index, _)| *index)?;
        self.column(&rows, |(_, write)| write.channel.as_str())?;
        self.column(&rows, |(_, write)| write.value.type_tag())?;
        self.column(&rows, |(_, write)| write.value.bytes())
    }

    fn add_rows(&mut self, rows: &[WriteRow<'_>]) -> Result<(), DbErr> {
        self.column(rows, |row| row.of.key.thread_id.as_str())?;
        self.column(rows, |row| row.of.key.namespace.as_str())?;
        self.column(rows, |row| row.of.key.checkpoint_id.as_str())?;
        self.column(rows, |row| row.of.task_id.as_str())?;
        self.column(rows, |row| row.of.task_path.as_str())?;
        self.column(rows, |row| row.index)?;
        self.column(rows, |row| row.write.channel.as_str())?;
        self.column(rows, |row| row.write.value.type_tag())?;
        self.column(rows, |row| row.write.value.bytes())
    }

    /// An array of what `column` takes from each of `rows`.
    pub(super) fn column<'q, R, T>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
        column: impl Fn(R) -> T,
    ) -> Result<(), DbErr>
    where
        Vec<T>: Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        self.add(rows.into_iter().map(column).collect::<Vec<_>>())
    }
}

fn not_encoded(error: BoxDynError) -> DbErr {
    from_sqlx(sqlx::Error::Encode(error))
}

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

async fn write_sqlite(connection: &Connection, writes: &[Write]) -> Result<Vec<bool>, DbErr> {
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
