//! `put` and `put_writes`: the hot path.
//!
//! Each begins with the thread's row in `threads`, so that the writers of one thread, and who
//! prunes or deletes it, come one after the other.

use sea_orm::{ConnectionTrait, DbErr, Statement, Value as SqlValue, sea_query::ArrayType};
use yai_agentkit_core::{ChannelWrite, CheckpointKey, NewWrites, Result, ThreadId};

use super::{
    NewRawCheckpoint, RawValue, Sql,
    row::{array, texts},
    threads::touch,
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
};

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

const SQLITE_PUT: &str = "INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata";

const SQLITE_PUT_VALUE: &str = "INSERT INTO checkpoint_blobs
    (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING";

/// The two statements of `put_writes`: the first write stays, or the last one counts.
macro_rules! put_writes {
    ($conflict:literal) => {
        Sql {
            postgres: concat!(
                "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT $1, $2, $3, $4, $5, w.* FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ",
                $conflict
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

pub(super) const FIRST_WRITE_STAYS: Sql = put_writes!("DO NOTHING");
pub(super) const LAST_WRITE_COUNTS: Sql = put_writes!(
    "DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob"
);

pub(super) async fn put(connection: &Connection, new: NewRawCheckpoint) -> Result<()> {
    let key = &new.key;
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
        execute_postgres(connection, POSTGRES_PUT, arguments).await
    } else {
        put_sqlite(connection, key, checkpoint, new.values).await
    };
    written.map_err(|error| storage_error("put checkpoint", error))
}

pub(super) async fn put_writes(connection: &Connection, new: NewWrites) -> Result<()> {
    new.validate()?;
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
        execute_postgres(connection, sql.postgres, arguments).await
    } else {
        put_writes_sqlite(connection, &new.key.thread_id, sql, task, rows).await
    };
    written.map_err(|error| storage_error("put writes", error))
}

async fn put_sqlite(
    connection: &Connection,
    key: &CheckpointKey,
    checkpoint: Vec<SqlValue>,
    values: Vec<RawValue>,
) -> Result<(), DbErr> {
    let transaction = connection.begin().await?;
    touch(&transaction, &key.thread_id).await?;
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
    transaction.commit().await
}

async fn put_writes_sqlite(
    connection: &Connection,
    thread_id: &ThreadId,
    sql: Sql,
    task: Vec<SqlValue>,
    rows: Vec<(i32, &ChannelWrite)>,
) -> Result<(), DbErr> {
    let transaction = connection.begin().await?;
    touch(&transaction, thread_id).await?;
    for (index, write) in rows {
        let mut arguments = task.clone();
        arguments.push(index.into());
        arguments.extend([&write.channel[..], write.value.type_tag()].map(SqlValue::from));
        arguments.push(write.value.bytes().into());
        sql.execute(&transaction, arguments).await?;
    }
    transaction.commit().await
}

/// One statement, repeated on another connection where this one was lost: both writes may be.
async fn execute_postgres(
    connection: &Connection,
    sql: &'static str,
    arguments: Vec<SqlValue>,
) -> Result<(), DbErr> {
    let statement =
        Statement::from_sql_and_values(connection.get_database_backend(), sql, arguments);
    retrying!(connection, connection.execute_raw(statement.clone())).map(drop)
}
