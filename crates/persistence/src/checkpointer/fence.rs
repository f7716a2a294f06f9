//! Writes that ask a [`Fence`]: one statement on PostgreSQL, each alone.

use sea_orm::DbErr;
use yai_agentkit_core::{CheckpointId, Error, Fence, Result, ThreadId, now};

use super::{
    NewRawCheckpoint, Sql,
    threads::time_value,
    write::{Write, put_arguments, put_writes_arguments, write},
};
use crate::{
    connection::{Connection, PostgresSource, retrying},
    error::storage_error,
};

/// A statement for [`Fence::Raise`] and one for [`Fence::Hold`], which first take the row of the
/// thread $1, and write only if they get it: `$epoch` is the parameter of the epoch.
struct Fenced {
    raise: &'static str,
    hold: &'static str,
}

macro_rules! fenced {
    ($epoch:literal, $write:expr) => {
        Fenced {
            raise: concat!(
                "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), ",
                $epoch,
                "::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), ",
                $write,
                " SELECT 1 FROM thread"
            ),
            hold: concat!(
                "WITH thread AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = $1 AND epoch = ",
                $epoch,
                "::bigint
    RETURNING 1
), ",
                $write,
                " SELECT 1 FROM thread"
            ),
        }
    };
}

const PUT: Fenced = fenced!(
    "$11",
    "blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.* FROM thread, unnest($7::text[], $8::text[], $9::text[], $10::bytea[]) b
    ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $3, $4, $5::jsonb, $6::jsonb FROM thread
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)"
);

/// As [`fenced!`], but the time of a thread that is there stays: it is indexed.
macro_rules! fenced_writes {
    ($conflict:literal) => {
        Fenced {
            raise: concat!(
                "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $10::bigint)
    ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch
    RETURNING 1
), written AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
                $conflict,
                ") SELECT 1 FROM thread"
            ),
            hold: concat!(
                "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $10::bigint FOR UPDATE
), written AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
                $conflict,
                ") SELECT 1 FROM thread"
            ),
        }
    };
}

const FIRST_WRITE_STAYS: Fenced = fenced_writes!("DO NOTHING");
const LAST_WRITE_COUNTS: Fenced = fenced_writes!(
    "DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob"
);

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

/// Writes where the fence admits it; else [`Error::Fenced`].
pub(super) async fn write_fenced(
    connection: &Connection,
    operation: &'static str,
    new: Write,
    fence: Fence,
) -> Result<()> {
    let epoch = fence.stored_epoch()?;
    let thread_id = new.key().thread_id.clone();
    let written = match connection {
        // One that raises would refuse itself the second time.
        Connection::Postgres(postgres) if matches!(fence, Fence::Raise(_)) => {
            write_postgres(postgres, &new, fence, epoch).await
        }
        Connection::Postgres(postgres) => {
            retrying!(connection, write_postgres(postgres, &new, fence, epoch))
        }
        Connection::Sqlite(_) => write_sqlite(connection, new, fence, epoch).await,
    };
    admitted(connection, operation, &thread_id, written).await
}

/// Stores a checkpoint whose parent is the latest. The statement that looks comes after the one
/// that locks the thread: a statement does not see what was committed while it waited.
pub(super) async fn put_next(
    connection: &Connection,
    new: NewRawCheckpoint,
    fence: Option<Fence>,
) -> Result<()> {
    const OPERATION: &str = "put checkpoint";
    let failed = |error| storage_error(OPERATION, error);
    let transaction = connection.begin().await.map_err(failed)?;
    let key = new.key.clone();
    match fence {
        Some(fence) => {
            let taken = take(&transaction, &key.thread_id, fence, fence.stored_epoch()?).await;
            admitted(&transaction, OPERATION, &key.thread_id, taken).await?;
        }
        None => {
            let locked = LOCK.execute(&transaction, vec![key.thread_id.as_str().into()]);
            locked.await.map_err(failed)?;
        }
    }
    let place = [
        key.thread_id.as_str(),
        key.namespace.as_str(),
        key.checkpoint_id.as_str(),
    ];
    let rows = LATEST.rows(&transaction, place.map(Into::into).into());
    let rows = rows.await.map_err(failed)?;
    let latest = rows.first().map(|row| row.try_get_by_index::<String>(0));
    let latest = latest.transpose().map_err(failed)?;
    if latest.as_deref() != new.parent.as_ref().map(CheckpointId::as_str) {
        let latest = latest.unwrap_or_else(|| "none".to_owned());
        return Err(Error::conflict("latest checkpoint", latest));
    }
    let written = write(&transaction, &[Write::Checkpoint(new)]).await;
    written.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Raises a thread that exists.
pub(super) async fn raise_epoch(
    connection: &Connection,
    thread_id: &ThreadId,
    epoch: u64,
) -> Result<()> {
    let epoch = Fence::Raise(epoch).stored_epoch()?;
    let values = vec![thread_id.as_str().into(), epoch.into()];
    let raised = RAISE.execute(connection, values).await;
    admitted(
        connection,
        "raise epoch",
        thread_id,
        raised.map(|rows| rows > 0),
    )
    .await
}

async fn write_postgres(
    postgres: &PostgresSource,
    new: &Write,
    fence: Fence,
    epoch: i64,
) -> Result<bool, DbErr> {
    let (sql, arguments) = match new {
        Write::Checkpoint(new) => (PUT, put_arguments(new)),
        Write::Writes(new) if new.replaces() => (LAST_WRITE_COUNTS, put_writes_arguments(new)),
        Write::Writes(new) => (FIRST_WRITE_STAYS, put_writes_arguments(new)),
    };
    let sql = match fence {
        Fence::Raise(_) => sql.raise,
        Fence::Hold(_) => sql.hold,
    };
    let mut arguments = arguments?;
    arguments.add(epoch)?;
    Ok(postgres.execute(sql, arguments.0).await? > 0)
}

async fn write_sqlite(
    connection: &Connection,
    new: Write,
    fence: Fence,
    epoch: i64,
) -> Result<bool, DbErr> {
    let transaction = connection.begin().await?;
    if !take(&transaction, &new.key().thread_id, fence, epoch).await? {
        return Ok(false);
    }
    write(&transaction, &[new]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Whether the fence admits a write to the thread, which is locked then.
async fn take(
    transaction: &Connection,
    thread_id: &ThreadId,
    fence: Fence,
    epoch: i64,
) -> Result<bool, DbErr> {
    let mut values = vec![thread_id.as_str().into(), epoch.into()];
    let sql = match fence {
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
async fn admitted(
    connection: &Connection,
    operation: &'static str,
    thread_id: &ThreadId,
    written: Result<bool, DbErr>,
) -> Result<()> {
    let failed = |error| storage_error(operation, error);
    if written.map_err(failed)? {
        return Ok(());
    }
    let rows = EPOCH.rows(connection, vec![thread_id.as_str().into()]);
    let rows = rows.await.map_err(failed)?;
    let epoch = rows.first().map(|row| row.try_get_by_index::<i64>(0));
    let epoch = epoch.transpose().map_err(failed)?;
    Err(Error::Fenced {
        thread: thread_id.to_string(),
        epoch: epoch.unwrap_or_default().cast_unsigned(),
    })
}
