//! What asks a [`Fence`]: the statements of a write that is alone, `put_next` and `raise_epoch`.

use sea_orm::DbErr;
use yai_agentkit_core::{
    CheckpointId, ConflictKind, Error, Fence, Result, ThreadId, TurnChange, now,
};

use super::{
    NewRawCheckpoint, PUT_CHECKPOINT, Sql,
    statement::{
        Conflicts, Insert, blobs, checkpoint, checkpoint_is_replaced, first_write_stays, insert,
        last_write_counts, raised, told, value_stays, writes,
    },
    threads::time_value,
    turn,
    write::{
        self, Fenced, New, Write,
        postgres::{PostgresArguments, put_arguments, put_writes_arguments},
    },
};
use crate::{connection::Connection, error::storage_error};

/// A statement for [`Fence::Raise`] and one for [`Fence::Hold`], which first take the row of the
/// thread $1, and write only if they get it.
pub(super) struct Statement {
    pub(super) raise: &'static str,
    pub(super) hold: Insert,
}

/// `$write` is a macro that takes what becomes of a value, a checkpoint and a first write that is
/// there, `$epoch` the parameter of the epoch; `$raise` and `$hold` take the row.
macro_rules! fenced {
    ($write:ident, $raise:expr, $hold:expr) => {{
        macro_rules! hold {
            ($value:expr, $checkpoint:expr, $first_write:expr) => {
                concat!(
                    "WITH thread AS ",
                    $hold,
                    ", ",
                    $write!($value, $checkpoint, $first_write),
                    " SELECT 1 FROM thread"
                )
            };
        }
        Statement {
            raise: concat!(
                "WITH thread AS (",
                $raise,
                "), ",
                $write!(
                    value_stays!(),
                    checkpoint_is_replaced!(),
                    first_write_stays!()
                ),
                " SELECT 1 FROM thread"
            ),
            hold: insert!(hold),
        }
    }};
}

macro_rules! checkpoints {
    ($write:ident) => {
        fenced!(
            $write,
            raised!("$11"),
            "(
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = $1 AND epoch = $11::bigint
    RETURNING 1
)"
        )
    };
}

macro_rules! put {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!(
            "blobs AS (",
            blobs!("thread", $value),
            "), written AS (",
            checkpoint!("thread", $checkpoint),
            ")"
        )
    };
}

pub(super) const PUT: Statement = checkpoints!(put);

macro_rules! put_telling {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!(
            "told AS (",
            told!("thread"),
            "), ",
            put!($value, $checkpoint, $first_write)
        )
    };
}

pub(super) const PUT_TELLING: Statement = checkpoints!(put_telling);

/// The time of a thread that is there stays: it is indexed.
macro_rules! writes_of_a_task {
    ($write:ident) => {
        fenced!(
            $write,
            "
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $10::bigint)
    ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch
    RETURNING 1
",
            "MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $10::bigint FOR UPDATE
)"
        )
    };
}

macro_rules! first_writes {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!("written AS (", writes!("thread", $first_write), ")")
    };
}

const FIRST_WRITE_STAYS: Statement = writes_of_a_task!(first_writes);

macro_rules! last_writes {
    ($value:expr, $checkpoint:expr, $first_write:expr) => {
        concat!("written AS (", writes!("thread", last_write_counts!()), ")")
    };
}

const LAST_WRITE_COUNTS: Statement = writes_of_a_task!(last_writes);

/// Takes the row of a thread, whatever is written then. SQLite has no clock with microseconds; the
/// process that writes lends it its own.
const TAKE: [Sql; 2] = [
    Sql {
        postgres: "INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), $2)
ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch",
        sqlite: "INSERT INTO threads (thread_id, epoch, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE epoch < excluded.epoch",
    },
    Sql::same("UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2"),
];

const RAISE: Sql = Sql::same("UPDATE threads SET epoch = $2 WHERE thread_id = $1 AND epoch < $2");

const EPOCH: Sql = Sql::same("SELECT epoch FROM threads WHERE thread_id = $1");

/// Without a fence: a thread that is not there yet is locked as well.
const LOCK: Sql = Sql {
    postgres: "INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at WHERE false",
    // The transaction itself is the lock.
    sqlite: "SELECT 1 WHERE $1 IS NOT NULL",
};

/// The latest checkpoint of a namespace but the one with the id $3.
const LATEST: Sql = Sql::same(
    "SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1",
);

/// What writes something to its thread, if that admits it: then it returns a row.
pub(super) fn statement(
    new: &New,
    fenced: &Fenced,
    conflicts: Conflicts,
) -> Result<(&'static str, PostgresArguments), DbErr> {
    let events = fenced.events.as_ref();
    let (statement, arguments) = match new {
        New::Checkpoint(new) if events.is_some() => (PUT_TELLING, put_arguments(new)),
        New::Checkpoint(new) => (PUT, put_arguments(new)),
        New::Writes(new) if new.replaces() => (LAST_WRITE_COUNTS, put_writes_arguments(new)),
        New::Writes(new) => (FIRST_WRITE_STAYS, put_writes_arguments(new)),
    };
    let mut arguments = arguments?;
    arguments.add(fenced.epoch)?;
    if let Some(events) = events {
        events.add_to(&mut arguments)?;
    }
    let sql = match fenced.fence {
        Fence::Raise(_) => statement.raise,
        Fence::Hold(_) => statement.hold.text(conflicts),
    };
    Ok((sql, arguments))
}

/// Stores a checkpoint whose parent is the latest. The statement that looks comes after the one
/// that locks the thread: a statement does not see what was committed while it waited.
pub(super) async fn put_next(
    connection: &Connection,
    new: NewRawCheckpoint,
    fenced: Option<Fenced>,
    change: Option<&TurnChange>,
    failed: impl Fn(DbErr) -> Error,
) -> Result<()> {
    let transaction = connection.begin().await.map_err(&failed)?;
    let key = new.key.clone();
    match &fenced {
        Some(fenced) => {
            let taken = take(&transaction, &key.thread_id, fenced).await;
            let taken = taken.map_err(&failed)?;
            admitted(&transaction, PUT_CHECKPOINT, &key.thread_id, taken).await?;
        }
        None => {
            let locked = LOCK.execute(&transaction, vec![key.thread_id.as_str().into()]);
            locked.await.map_err(&failed)?;
        }
    }
    let place = [
        key.thread_id.as_str(),
        key.namespace.as_str(),
        key.checkpoint_id.as_str(),
    ];
    let rows = LATEST.rows(&transaction, place.map(Into::into).into());
    let rows = rows.await.map_err(&failed)?;
    let latest = rows.first().map(|row| row.try_get_by_index::<String>(0));
    let latest = latest.transpose().map_err(&failed)?;
    if latest.as_deref() != new.parent.as_ref().map(CheckpointId::as_str) {
        let latest = latest.map(CheckpointId::from);
        return Err(Error::Conflict(ConflictKind::LatestCheckpoint(latest)));
    }
    if let Some(change) = change {
        turn::change_turn(&transaction, change).await?;
    }
    let write = Write {
        new: New::Checkpoint(new),
        // It has the epoch by now.
        fenced: fenced.map(|fenced| Fenced {
            fence: Fence::Hold(fenced.fence.epoch()),
            ..fenced
        }),
    };
    write::write(&transaction, &[write])
        .await
        .map_err(&failed)?;
    transaction.commit().await.map_err(failed)
}

/// Raises a thread that exists.
pub(super) async fn raise_epoch(
    connection: &Connection,
    thread_id: &ThreadId,
    epoch: u64,
) -> Result<()> {
    const OPERATION: &str = "raise epoch";
    let epoch = Fence::Raise(epoch).stored_epoch()?;
    let values = vec![thread_id.as_str().into(), epoch.into()];
    let raised = RAISE.execute(connection, values).await;
    let raised = raised.map_err(|error| storage_error(OPERATION, error))? > 0;
    admitted(connection, OPERATION, thread_id, raised).await
}

/// Whether the fence admits a write to the thread, which is locked then.
pub(super) async fn take(
    transaction: &Connection,
    thread_id: &ThreadId,
    fenced: &Fenced,
) -> Result<bool, DbErr> {
    let mut values = vec![thread_id.as_str().into(), fenced.epoch.into()];
    let sql = match fenced.fence {
        Fence::Raise(_) => {
            if !transaction.is_postgres() {
                values.push(time_value(transaction, now()));
            }
            TAKE[0]
        }
        Fence::Hold(_) => TAKE[1],
    };
    Ok(sql.execute(transaction, values).await? > 0)
}

/// Nothing, if the fence admitted the write.
pub(super) async fn admitted(
    connection: &Connection,
    operation: &'static str,
    thread_id: &ThreadId,
    admitted: bool,
) -> Result<()> {
    if admitted {
        return Ok(());
    }
    let failed = |error| storage_error(operation, error);
    let rows = EPOCH.rows(connection, vec![thread_id.as_str().into()]);
    let rows = rows.await.map_err(failed)?;
    let epoch = rows.first().map(|row| row.try_get_by_index::<i64>(0));
    let epoch = epoch.transpose().map_err(failed)?;
    Err(Error::Fenced {
        thread: thread_id.to_string(),
        epoch: epoch.unwrap_or_default().cast_unsigned(),
    })
}
