//! The statements of PostgreSQL, but for those of one write that asks a fence (`fence.rs`).

use std::collections::HashSet;

use sea_orm::DbErr;
use sqlx::{Arguments, Encode, Postgres, Row, Type, postgres::PgArguments};
use yai_agentkit_core::NewWrites;

use super::{
    super::{
        NewRawCheckpoint, fence,
        statement::{
            Conflicts, Insert, blobs, checkpoint, checkpoint_is_replaced, first_write_stays,
            insert, last_write_counts, thread, value_stays, writes,
        },
    },
    New, Rows, Write, WriteRow, not_encoded,
};
use crate::{connection::PostgresSource, error::from_sqlx};

macro_rules! put {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!(
            "WITH thread AS (",
            thread!(),
            "), blobs AS (",
            blobs!("thread", $value),
            ") ",
            checkpoint!("thread", $checkpoint)
        )
    };
}

pub(in crate::checkpointer) const PUT: Insert = insert!(put);

macro_rules! step {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!(
            "WITH thread AS (",
            thread!(),
            "), blobs AS (",
            blobs!("thread", $value),
            "), writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $11, $12, $13, w.*
    FROM thread, unnest($14::int[], $15::text[], $16::text[], $17::bytea[]) w",
            $first_write,
            "
) ",
            checkpoint!("thread", $checkpoint)
        )
    };
}

/// A checkpoint, and of the same thread and namespace what one task wrote: what LangGraph stores
/// at the end of a superstep. Half the work of a group of the two.
pub(in crate::checkpointer) const STEP: Insert = insert!(step);

/// `$conflict` is what becomes of a write that is there.
macro_rules! put_writes {
    ($conflict:expr) => {
        concat!(
            "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at WHERE false
    RETURNING 1
), locked AS MATERIALIZED (
    SELECT count(*) FROM thread
) ",
            writes!("locked", $conflict)
        )
    };
}

macro_rules! first_writes {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        put_writes!($first_write)
    };
}

pub(in crate::checkpointer) const FIRST_WRITE_STAYS: Insert = insert!(first_writes);
pub(in crate::checkpointer) const LAST_WRITE_COUNTS: &str = put_writes!(last_write_counts!());

macro_rules! last_writes {
    ($admitted:literal) => {
        concat!(
            ", last_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($24::text[], $25::text[], $26::text[], $27::text[],
        $28::text[], $29::int[], $30::text[], $31::text[], $32::bytea[]) r (thread_id)",
            $admitted,
            last_write_counts!(),
            "
)"
        )
    };
}

/// Several writes of any threads, whose rows `$lock` locks: `locked` is one row then. `$admitted`
/// says which rows are written, `$last_writes` are those that replace others, `$end` is what follows
/// the insert of the checkpoints. The others are what becomes of a value, a checkpoint and a first
/// write that is there.
macro_rules! group {
    (
        $lock:literal, $admitted:literal, $last_writes:expr, $checkpoints:literal, $end:literal,
        $value:expr, $checkpoint:expr, $first_write:expr
    ) => {
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
            $value,
            "
), first_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($15::text[], $16::text[], $17::text[], $18::text[],
        $19::text[], $20::int[], $21::text[], $22::text[], $23::bytea[]) r (thread_id)",
            $admitted,
            $first_write,
            "
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
            $checkpoint,
            $end
        )
    };
}

macro_rules! plain_group {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        group!(
            "locked AS MATERIALIZED (SELECT count(*) FROM thread)",
            "",
            "",
            "",
            "",
            $value,
            $checkpoint,
            $first_write
        )
    };
}

/// Writes without a fence, none of which replaces others. `$1`, all threads, is sorted, so that two
/// of these never wait for each other in a ring; and who holds one of the threads for long holds up
/// the others only for a moment. `$2` are the threads with a checkpoint.
pub(in crate::checkpointer) const GROUP: Insert = insert!(plain_group);

macro_rules! replacing_group {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        group!(
            "locked AS MATERIALIZED (SELECT count(*) FROM thread)",
            "",
            last_writes!(""),
            "",
            "",
            $value,
            $checkpoint,
            $first_write
        )
    };
}

/// As [`GROUP`], with writes that replace others: a table more to be opened.
pub(in crate::checkpointer) const REPLACING_GROUP: Insert = insert!(replacing_group);

macro_rules! fenced_group {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        group!(
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
            ") SELECT unnest(refused) FROM locked",
            $value,
            $checkpoint,
            $first_write
        )
    };
}

/// Among them writes that hold a thread, of `$33`, with an epoch, of `$34`; `$1` are the others.
/// Returns the threads whose epoch is another: nothing of theirs is written. Each thread is locked
/// by its key, in the order of the arrays.
pub(in crate::checkpointer) const FENCED_GROUP: Insert = insert!(fenced_group);

/// By the statements for such `conflicts`.
pub(super) async fn write(
    postgres: &PostgresSource,
    writes: &[Write],
    conflicts: Conflicts,
) -> Result<Vec<bool>, DbErr> {
    match writes {
        [Write { new, fenced: None }] => {
            let (sql, arguments) = match new {
                New::Checkpoint(new) => (PUT.text(conflicts), put_arguments(new)),
                New::Writes(new) if new.replaces() => {
                    (LAST_WRITE_COUNTS, put_writes_arguments(new))
                }
                New::Writes(new) => (FIRST_WRITE_STAYS.text(conflicts), put_writes_arguments(new)),
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
            let (sql, arguments) = fence::statement(new, fenced, conflicts)?;
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
            postgres
                .fetch_all(STEP.text(conflicts), arguments.0)
                .await?;
            Ok(vec![true; 2])
        }
        _ if writes.iter().all(|write| write.fenced.is_none()) => {
            let (statement, arguments) = group_statement(&Rows::of(writes))?;
            postgres
                .fetch_all(statement.text(conflicts), arguments.0)
                .await?;
            Ok(vec![true; writes.len()])
        }
        _ => {
            let arguments = fenced_group_arguments(writes)?;
            let refused = postgres.fetch_all(FENCED_GROUP.text(conflicts), arguments.0);
            let refused = refused.await?.into_iter().map(|row| row.try_get(0));
            let refused: HashSet<String> = refused.collect::<Result<_, _>>().map_err(from_sqlx)?;
            let admits = |write: &Write| !refused.contains(write.key().thread_id.as_str());
            Ok(writes.iter().map(admits).collect())
        }
    }
}

pub(in crate::checkpointer) fn put_arguments(
    new: &NewRawCheckpoint,
) -> Result<PostgresArguments, DbErr> {
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

pub(in crate::checkpointer) fn put_writes_arguments(
    new: &NewWrites,
) -> Result<PostgresArguments, DbErr> {
    let mut arguments = PostgresArguments::default();
    arguments.add(new.key.thread_id.as_str())?;
    arguments.add(new.key.namespace.as_str())?;
    arguments.add_writes(new)?;
    Ok(arguments)
}

/// Whether [`STEP`] stores both.
fn is_step(new: &NewRawCheckpoint, writes: &NewWrites) -> bool {
    let (put, of) = (&new.key, &writes.key);
    put.thread_id == of.thread_id && put.namespace == of.namespace && !writes.replaces()
}

fn step_arguments(new: &NewRawCheckpoint, writes: &NewWrites) -> Result<PostgresArguments, DbErr> {
    let mut arguments = put_arguments(new)?;
    arguments.add_writes(writes)?;
    Ok(arguments)
}

fn group_statement(rows: &Rows<'_>) -> Result<(Insert, PostgresArguments), DbErr> {
    let mut arguments = arguments_of(rows)?;
    if rows.last_writes.is_empty() {
        return Ok((GROUP, arguments));
    }
    arguments.add_rows(&rows.last_writes)?;
    Ok((REPLACING_GROUP, arguments))
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
pub(crate) struct PostgresArguments(pub(in crate::checkpointer) PgArguments);

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
    pub(in crate::checkpointer) fn column<'q, R, T>(
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
