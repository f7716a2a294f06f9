//! What asks a [`Fence`] by statements of its own: a write that raises an epoch, a put behind the
//! latest checkpoint, and `raise_epoch`.

use sea_orm::DbErr;
use yai_agentkit_core::{CheckpointId, ConflictKind, Error, Fence, Result, ThreadId};

use super::{
    NewRawCheckpoint, PUT_CHECKPOINT,
    write::{Fenced, New, Write},
};
use crate::{
    coalescer::Call,
    connection::{Connection, retrying_undone},
    error::storage_error,
    sql::Sql,
};

/// Takes the row of a thread, whatever is written then. SQLite has no clock with microseconds; the
/// process that writes lends it its own.
const TAKE: [Sql; 2] = [
    Sql {
        postgres: "INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), $2)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch",
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
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = t.updated_at WHERE false",
    // The transaction itself is the lock.
    sqlite: "SELECT 1 WHERE $1 IS NOT NULL",
};

/// The latest checkpoint of a namespace but the one with the id $3.
const LATEST: Sql = Sql::same(
    "SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1",
);

/// Stores a checkpoint whose parent is the latest. The statement that looks comes after the one
/// that locks the thread: a statement does not see what was committed while it waited.
pub(super) async fn put_next(
    connection: &Connection,
    new: NewRawCheckpoint,
    fenced: Option<Fenced>,
) -> Result<()> {
    let failed = |error| storage_error(PUT_CHECKPOINT, error);
    let transaction = connection.begin().await.map_err(failed)?;
    let key = new.key.clone();
    match &fenced {
        Some(fenced) => {
            let taken = take(&transaction, &key.thread_id, fenced).await;
            let taken = taken.map_err(failed)?;
            admitted(&transaction, PUT_CHECKPOINT, &key.thread_id, taken).await?;
        }
        None => {
            let locked = LOCK.query(&transaction).with(key.thread_id.as_str());
            locked.execute(&transaction).await.map_err(failed)?;
        }
    }
    let place = [
        key.thread_id.as_str(),
        key.namespace.as_str(),
        key.checkpoint_id.as_str(),
    ];
    let mut query = LATEST.query(&transaction);
    for text in place {
        query.bind(text);
    }
    let rows = query.rows(&transaction).await.map_err(failed)?;
    let latest = rows.first().map(|row| row.try_get_by_index::<String>(0));
    let latest = latest.transpose().map_err(failed)?;
    if latest.as_deref() != new.parent.as_ref().map(CheckpointId::as_str) {
        let latest = latest.map(CheckpointId::from);
        return Err(Error::Conflict(ConflictKind::LatestCheckpoint(latest)));
    }
    let write = Write {
        new: New::Checkpoint(new),
        // It has the epoch by now.
        fenced: fenced.map(|fenced| Fenced {
            fence: Fence::Hold(fenced.fence.epoch()),
            ..fenced
        }),
    };
    Write::run(&transaction, &[write]).await.map_err(failed)?;
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
    let raise = RAISE.query(connection).with(thread_id.as_str()).with(epoch);
    let raised = retrying_undone!(connection, raise.clone().execute(connection));
    let raised = raised.map_err(|error| storage_error(OPERATION, error))? > 0;
    admitted(connection, OPERATION, thread_id, raised).await
}

/// Whether the fence admits a write to the thread, which is locked then.
pub(super) async fn take(
    transaction: &Connection,
    thread_id: &ThreadId,
    fenced: &Fenced,
) -> Result<bool, DbErr> {
    let (sql, lends_time) = match fenced.fence {
        Fence::Raise(_) => (TAKE[0], !transaction.is_postgres()),
        Fence::Hold(_) => (TAKE[1], false),
    };
    let mut query = sql
        .query(transaction)
        .with(thread_id.as_str())
        .with(fenced.epoch);
    if lends_time {
        query.bind_time(transaction.now());
    }
    Ok(query.execute(transaction).await? > 0)
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
    let query = EPOCH.query(connection).with(thread_id.as_str());
    let rows = query.rows(connection).await.map_err(failed)?;
    let epoch = rows.first().map(|row| row.try_get_by_index::<i64>(0));
    let epoch = epoch.transpose().map_err(failed)?;
    Err(Error::Fenced {
        thread: thread_id.to_string(),
        epoch: epoch.unwrap_or_default().cast_unsigned(),
    })
}
