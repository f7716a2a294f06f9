//! `put` and `put_writes`: the hot path.
//!
//! Each begins with the thread's row in `threads`, so that the writers of one thread, and who
//! prunes or deletes it, come one after the other.

use sea_orm::{ConnectionTrait, DbErr, Statement, Value as SqlValue, sea_query::ArrayType};
use yai_agentkit_core::{
    ChannelWrite, CheckpointId, CheckpointKey, Error, Fence, NewWrites, Result, ThreadId,
};

use super::{
    NewRawCheckpoint, RawValue, Sql,
    row::{array, texts},
    threads::{epoch, touch},
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
};

/// A statement that first takes the row of the thread $1 in `threads`, and writes only if it got
/// it: without a fence, with [`Fence::Raise`], with [`Fence::Hold`]. `$fence` is the parameter of
/// the epoch.
macro_rules! fenced {
    ($fence:literal, $write:expr) => {
        [
            concat!(
                "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), ",
                $write,
                " SELECT 1 FROM thread"
            ),
            concat!(
                "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), ",
                $fence,
                "::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), ",
                $write,
                " SELECT 1 FROM thread"
            ),
            concat!(
                "WITH thread AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = $1 AND epoch = ",
                $fence,
                "::bigint
    RETURNING 1
), ",
                $write,
                " SELECT 1 FROM thread"
            ),
        ]
    };
}

pub(super) const POSTGRES_PUT: [&str; 3] = fenced!(
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

const SQLITE_PUT: &str = "INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata";

const SQLITE_PUT_VALUE: &str = "INSERT INTO checkpoint_blobs
    (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING";

/// A statement of `put_writes`.
#[derive(Clone, Copy)]
pub(super) struct PutWrites {
    pub(super) postgres: [&'static str; 3],
    sqlite: &'static str,
}

/// The two of them: the first write stays, or the last one counts.
macro_rules! put_writes {
    ($conflict:literal) => {
        PutWrites {
            postgres: fenced!(
                "$10",
                concat!(
                    "written AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
                    $conflict,
                    ")"
                )
            ),
            sqlite: concat!(
                "INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
                $conflict
            ),
        }
    };
}

pub(super) const FIRST_WRITE_STAYS: PutWrites = put_writes!("DO NOTHING");
pub(super) const LAST_WRITE_COUNTS: PutWrites = put_writes!(
    "DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob"
);

pub(super) async fn put(
    connection: &Connection,
    new: NewRawCheckpoint,
    fence: Option<Fence>,
) -> Result<()> {
    let epoch = fence.map(Fence::stored_epoch).transpose()?;
    let key = &new.key;
    let thread_id = key.thread_id.clone();
    let checkpoint = vec![
        key.thread_id.as_str().into(),
        key.namespace.as_str().into(),
        key.checkpoint_id.as_str().into(),
        SqlValue::String(new.parent.map(|id| id.as_str().to_owned())),
        new.checkpoint.into(),
        new.metadata.into(),
    ];
    let written = if connection.is_postgres() {
        let mut arguments = checkpoint;
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for stored in new.values {
            let (type_tag, bytes) = stored.value.into_parts();
            columns.0.push(stored.channel);
            columns.1.push(stored.version);
            columns.2.push(type_tag);
            columns.3.push(bytes);
        }
        arguments.extend([texts(columns.0), texts(columns.1), texts(columns.2)]);
        arguments.push(array(ArrayType::Bytes, columns.3));
        arguments.extend(epoch.map(SqlValue::from));
        write_postgres(connection, POSTGRES_PUT, fence, arguments).await
    } else {
        put_sqlite(connection, key, fence, checkpoint, new.values).await
    };
    admitted(connection, "put checkpoint", &thread_id, written).await
}

/// The latest checkpoint of a namespace but the one with the id $3.
const LATEST: Sql = Sql::same(
    "SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1",
);

/// As [`put`], where the parent is the latest. The statement that looks comes after the one that
/// locks the thread: a statement does not see what was committed while it waited.
pub(super) async fn put_next(
    connection: &Connection,
    new: NewRawCheckpoint,
    fence: Option<Fence>,
) -> Result<()> {
    fence.map(Fence::stored_epoch).transpose()?;
    let failed = |error| storage_error("put checkpoint", error);
    let transaction = connection.begin().await.map_err(failed)?;
    let key = new.key.clone();
    let touched = touch(&transaction, &key.thread_id, fence).await;
    admitted(&transaction, "put checkpoint", &key.thread_id, touched).await?;
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
    // The thread is ours by now, whatever the fence was.
    put(&transaction, new, None).await?;
    transaction.commit().await.map_err(failed)
}

pub(super) async fn put_writes(
    connection: &Connection,
    new: NewWrites,
    fence: Option<Fence>,
) -> Result<()> {
    new.validate()?;
    let epoch = fence.map(Fence::stored_epoch).transpose()?;
    if new.writes.is_empty() {
        return Ok(());
    }
    let sql = if new.replaces() {
        LAST_WRITE_COUNTS
    } else {
        FIRST_WRITE_STAYS
    };
    let task: Vec<SqlValue> = [
        new.key.thread_id.as_str(),
        new.key.namespace.as_str(),
        new.key.checkpoint_id.as_str(),
        new.task_id.as_str(),
        new.task_path.as_str(),
    ]
    .map(Into::into)
    .into();
    let rows = new.rows();

    let written = if connection.is_postgres() {
        let mut arguments = task;
        let values = || rows.iter().map(|(_, write)| write);
        arguments.extend([
            array(ArrayType::Int, rows.iter().map(|(index, _)| *index)),
            array(
                ArrayType::String,
                values().map(|write| write.channel.as_str()),
            ),
            array(
                ArrayType::String,
                values().map(|write| write.value.type_tag()),
            ),
            array(ArrayType::Bytes, values().map(|write| write.value.bytes())),
        ]);
        arguments.extend(epoch.map(SqlValue::from));
        write_postgres(connection, sql.postgres, fence, arguments).await
    } else {
        put_writes_sqlite(connection, &new.key.thread_id, fence, sql, task, rows).await
    };
    admitted(connection, "put writes", &new.key.thread_id, written).await
}

async fn put_sqlite(
    connection: &Connection,
    key: &CheckpointKey,
    fence: Option<Fence>,
    checkpoint: Vec<SqlValue>,
    values: Vec<RawValue>,
) -> Result<bool, DbErr> {
    let transaction = connection.begin().await?;
    if !touch(&transaction, &key.thread_id, fence).await? {
        return Ok(false);
    }
    for stored in values {
        let (type_tag, bytes) = stored.value.into_parts();
        let place = [key.thread_id.as_str(), key.namespace.as_str()];
        let mut arguments: Vec<SqlValue> = place.map(Into::into).into();
        arguments.extend([stored.channel, stored.version, type_tag].map(SqlValue::from));
        arguments.push(bytes.into());
        Sql::same(SQLITE_PUT_VALUE)
            .execute(&transaction, arguments)
            .await?;
    }
    Sql::same(SQLITE_PUT)
        .execute(&transaction, checkpoint)
        .await?;
    transaction.commit().await?;
    Ok(true)
}

async fn put_writes_sqlite(
    connection: &Connection,
    thread_id: &ThreadId,
    fence: Option<Fence>,
    sql: PutWrites,
    task: Vec<SqlValue>,
    rows: Vec<(i32, &ChannelWrite)>,
) -> Result<bool, DbErr> {
    let transaction = connection.begin().await?;
    if !touch(&transaction, thread_id, fence).await? {
        return Ok(false);
    }
    for (index, write) in rows {
        let mut arguments = task.clone();
        arguments.push(index.into());
        arguments.extend([&write.channel[..], write.value.type_tag()].map(SqlValue::from));
        arguments.push(write.value.bytes().into());
        Sql::same(sql.sqlite)
            .execute(&transaction, arguments)
            .await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// One statement, repeated on another connection where this one was lost: all writes may be, but
/// for one that raises the epoch, which would refuse itself. `false` where the fence refuses.
async fn write_postgres(
    connection: &Connection,
    sql: [&'static str; 3],
    fence: Option<Fence>,
    arguments: Vec<SqlValue>,
) -> Result<bool, DbErr> {
    let sql = match fence {
        None => sql[0],
        Some(Fence::Raise(_)) => sql[1],
        Some(Fence::Hold(_)) => sql[2],
    };
    let statement =
        Statement::from_sql_and_values(connection.get_database_backend(), sql, arguments);
    let written = if let Some(Fence::Raise(_)) = fence {
        connection.query_all_raw(statement).await
    } else {
        retrying!(connection, connection.query_all_raw(statement.clone()))
    };
    written.map(|rows| !rows.is_empty())
}

/// Nothing, if the fence admitted the write.
pub(super) async fn admitted(
    connection: &Connection,
    operation: &'static str,
    thread_id: &ThreadId,
    written: Result<bool, DbErr>,
) -> Result<()> {
    let failed = |error| storage_error(operation, error);
    if written.map_err(failed)? {
        return Ok(());
    }
    let epoch = epoch(connection, thread_id).await.map_err(failed)?;
    Err(Error::Fenced {
        thread: thread_id.to_string(),
        epoch: epoch.unwrap_or_default().cast_unsigned(),
    })
}
