//! What deletes, prunes and copies: rare, of several statements, each call one transaction.
//!
//! Each first locks the thread's row in `threads`, as every write of ours does, so that it sees
//! and changes a thread between two writes. Rows that another writer adds meanwhile (LangGraph's
//! own saver locks nothing) are never deleted: what goes, goes by its key.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{DbErr, QueryResult};
use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    CheckpointId, ConflictKind, Error, Namespace, Result, ThreadId,
    checkpoint::{CheckpointMetadata, PruneStrategy},
    retention::{CheckpointSummary, Place, Retention},
};

use super::row::{CheckpointRow, Columns, read_json};
use crate::{
    connection::Connection,
    encryption::{self, Keys},
    error::{is_unique_violation, storage_error},
    sql::Sql,
};

/// On SQLite the transaction itself is the lock.
const LOCK_THREAD: Sql = Sql {
    postgres: "SELECT FROM threads WHERE thread_id = $1 FOR UPDATE",
    sqlite: "SELECT 1 FROM threads WHERE thread_id = $1",
};

const DELETE_THREAD: [Sql; 4] = [
    Sql::same("DELETE FROM checkpoints WHERE thread_id = $1"),
    Sql::same("DELETE FROM checkpoint_blobs WHERE thread_id = $1"),
    Sql::same("DELETE FROM checkpoint_writes WHERE thread_id = $1"),
    Sql::same("DELETE FROM threads WHERE thread_id = $1"),
];

/// Greater than that with which somebody may be about to take the thread over.
const LEAVE_EPOCH: Sql =
    Sql::same("UPDATE threads SET epoch = epoch + 2, parent_id = NULL WHERE thread_id = $1");

/// What is left of a thread without checkpoints.
const DELETE_EMPTY_THREAD: [Sql; 3] = [
    Sql::same(
        "DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1)",
    ),
    Sql::same(
        "DELETE FROM checkpoint_writes WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1)",
    ),
    Sql::same(
        "DELETE FROM threads WHERE thread_id = $1 AND epoch = 0
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1)",
    ),
];

const COPY_THREAD: [Sql; 3] = [
    Sql::same(
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    type, checkpoint, metadata)
SELECT $2, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints WHERE thread_id = $1",
    ),
    Sql::same(
        "INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT $2, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs WHERE thread_id = $1",
    ),
    Sql::same(
        "INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,
    idx, channel, type, blob)
SELECT $2, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
FROM checkpoint_writes WHERE thread_id = $1",
    ),
];

/// Whether there is something to copy, and whether something is in its way: LangGraph's own saver
/// keeps no row in `threads`.
const MAY_COPY: Sql = Sql::same(
    "SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1),
    EXISTS (SELECT 1 FROM threads WHERE thread_id = $2)
    OR EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $2)
    OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread_id = $2)",
);

/// The thread $2, unless it is there. SQLite has no clock with microseconds; the only process that
/// writes lends it its own.
const ADD_COPY: Sql = Sql {
    postgres: "INSERT INTO threads (thread_id, parent_id, updated_at)
VALUES ($2, $1, clock_timestamp()) ON CONFLICT DO NOTHING",
    sqlite: "INSERT INTO threads (thread_id, parent_id, updated_at)
VALUES ($2, $1, $3) ON CONFLICT DO NOTHING",
};

/// Reads every checkpoint: LangGraph's tables have no index on the run.
const THREADS_OF_RUNS: Sql = Sql {
    postgres: "SELECT DISTINCT thread_id FROM checkpoints
WHERE metadata ->> 'run_id' IN (SELECT jsonb_array_elements_text($1::jsonb))",
    sqlite: "SELECT DISTINCT thread_id FROM checkpoints
WHERE metadata ->> '$.run_id' IN (SELECT value FROM json_each($1))",
};

const CHECKPOINTS: Sql = Sql {
    postgres: "SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text,
    c.metadata::text, EXISTS (
        SELECT FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1",
    sqlite: "SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint,
    c.metadata, EXISTS (
        SELECT 1 FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1",
};

const STORED_VERSIONS: Sql = Sql::same(
    "SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty'",
);

/// $2 is a JSON array of [namespace, id].
const REMOVE_CHECKPOINTS: [Sql; 3] = [
    Sql {
        postgres: "DELETE FROM checkpoint_writes w USING jsonb_array_elements($2::jsonb) gone
WHERE w.thread_id = $1 AND w.checkpoint_ns = gone ->> 0 AND w.checkpoint_id = gone ->> 1",
        sqlite: "DELETE FROM checkpoint_writes WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2))",
    },
    Sql {
        postgres: "DELETE FROM checkpoints c USING jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.checkpoint_id = gone ->> 1",
        sqlite: "DELETE FROM checkpoints WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2))",
    },
    Sql {
        postgres: "UPDATE checkpoints c SET parent_checkpoint_id = NULL
FROM jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.parent_checkpoint_id = gone ->> 1",
        sqlite: "UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = $1
AND (checkpoint_ns, parent_checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2))",
    },
];

/// $2 is a JSON array of [namespace, channel, version].
const REMOVE_VALUES: Sql = Sql {
    postgres: "DELETE FROM checkpoint_blobs b USING jsonb_array_elements($2::jsonb) gone
WHERE b.thread_id = $1 AND b.checkpoint_ns = gone ->> 0 AND b.channel = gone ->> 1
    AND b.version = gone ->> 2",
    sqlite: "DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND (checkpoint_ns, channel, version) IN
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($2))",
};

pub(super) async fn delete_thread(connection: &Connection, id: &ThreadId) -> Result<()> {
    prune(connection, std::slice::from_ref(id), PruneStrategy::Delete).await
}

pub(super) async fn prune(
    connection: &Connection,
    thread_ids: &[ThreadId],
    strategy: PruneStrategy,
) -> Result<()> {
    // In one order, so that two calls can't wait for each other.
    let thread_ids: BTreeSet<&ThreadId> = thread_ids.iter().collect();
    let transaction = connection.begin().await.map_err(failed)?;
    for id in thread_ids {
        lock(&transaction, id).await?;
        match strategy {
            PruneStrategy::Delete => delete_all(&transaction, id).await?,
            PruneStrategy::KeepLatest => {
                remove(&transaction, id, Retention::all_but_latest).await?;
            }
        }
    }
    transaction.commit().await.map_err(failed)
}

pub(super) async fn delete_for_runs(connection: &Connection, run_ids: &[String]) -> Result<()> {
    if run_ids.is_empty() {
        return Ok(());
    }
    let transaction = connection.begin().await.map_err(failed)?;
    let query = THREADS_OF_RUNS.query(&transaction);
    let query = query.with(json!(run_ids).to_string());
    let threads = query.rows(&transaction).await.map_err(failed)?;
    let threads = threads
        .iter()
        .map(|row| row.try_get_by_index::<String>(0).map(ThreadId::from));
    // In one order, as above, and not in that of a collation.
    for id in threads
        .collect::<Result<BTreeSet<_>, _>>()
        .map_err(failed)?
    {
        lock(&transaction, &id).await?;
        remove(&transaction, &id, |retention| retention.of_runs(run_ids)).await?;
    }
    transaction.commit().await.map_err(failed)
}

pub(super) async fn copy_thread(
    connection: &Connection,
    source: &ThreadId,
    target: &ThreadId,
    keys: &Keys,
) -> Result<()> {
    target.validate()?;
    let ring = keys.ring(connection).await?;
    let transaction = connection.begin().await.map_err(failed)?;
    lock(&transaction, source).await?;
    let of_both = |sql: Sql| {
        let query = sql.query(&transaction);
        query.with(source.as_str()).with(target.as_str())
    };
    let rows = of_both(MAY_COPY).rows(&transaction).await;
    let rows = rows.map_err(failed)?;
    let [row] = &rows[..] else {
        return Err(Error::backend("copy thread", "the database gave no answer"));
    };
    let source_exists: bool = row.try_get_by_index(0).map_err(failed)?;
    let target_exists: bool = row.try_get_by_index(1).map_err(failed)?;
    if target_exists {
        return Err(Error::Conflict(ConflictKind::Thread(target.clone())));
    }
    if !source_exists {
        return transaction.commit().await.map_err(failed);
    }
    let mut copy = of_both(ADD_COPY);
    if !transaction.is_postgres() {
        copy.bind_time(transaction.now());
    }
    // By a copy that was under way.
    if copy.execute(&transaction).await.map_err(failed)? == 0 {
        return Err(Error::Conflict(ConflictKind::Thread(target.clone())));
    }
    for sql in COPY_THREAD {
        match of_both(sql).execute(&transaction).await {
            // Somebody began the target just now.
            Err(error) if is_unique_violation(&error) => {
                return Err(Error::Conflict(ConflictKind::Thread(target.clone())));
            }
            copied => copied.map_err(failed)?,
        };
    }
    if let Some(ring) = ring {
        encryption::copied(&transaction, &ring, source, target).await?;
    }
    transaction.commit().await.map_err(failed)
}

pub(super) fn failed(error: DbErr) -> Error {
    storage_error("maintain threads", error)
}

pub(crate) async fn lock(transaction: &Connection, id: &ThreadId) -> Result<()> {
    let lock = LOCK_THREAD.query(transaction).with(id.as_str());
    lock.rows(transaction).await.map(drop).map_err(failed)
}

pub(crate) async fn delete_all(transaction: &Connection, id: &ThreadId) -> Result<()> {
    delete(transaction, id, &DELETE_THREAD).await
}

/// All but its epoch.
pub(crate) async fn leave_epoch(transaction: &Connection, id: &ThreadId) -> Result<()> {
    let [checkpoints, blobs, writes, _] = DELETE_THREAD;
    delete(transaction, id, &[checkpoints, blobs, writes, LEAVE_EPOCH]).await
}

async fn delete(transaction: &Connection, id: &ThreadId, texts: &[Sql]) -> Result<()> {
    for sql in texts {
        let delete = sql.query(transaction).with(id.as_str());
        delete.execute(transaction).await.map_err(failed)?;
    }
    Ok(())
}

/// Removes the checkpoints that `choose` gives up, their pending writes, and the values that no
/// other checkpoint uses; the whole thread when no checkpoint is left.
async fn remove(
    transaction: &Connection,
    id: &ThreadId,
    choose: impl FnOnce(&Retention) -> BTreeSet<Place>,
) -> Result<()> {
    let loaded = load(transaction, id).await?;
    let gone = choose(&retention(&loaded));
    if gone.is_empty() {
        return Ok(());
    }
    take_away(transaction, id, &Going::of(&loaded, &gone)).await
}

/// What goes of a thread: JSON arrays of [namespace, id], and of [namespace, channel, version].
pub(super) struct Going {
    pub(super) checkpoints: u64,
    pub(super) places: String,
    pub(super) values: String,
}

impl Going {
    /// The checkpoints at these places, and the values that no other uses.
    pub(super) fn of(loaded: &BTreeMap<Place, Loaded>, gone: &BTreeSet<Place>) -> Self {
        let used = |is_gone: bool| -> BTreeSet<[&str; 3]> {
            loaded
                .iter()
                .filter(|(place, _)| gone.contains(*place) == is_gone)
                .flat_map(|(place, (_, versions))| {
                    let versions = versions.iter();
                    versions.map(|(channel, version)| [place.0.as_str(), channel, version])
                })
                .collect()
        };
        let values: Vec<[&str; 3]> = used(true).difference(&used(false)).copied().collect();
        let places: Vec<[&str; 2]> = gone
            .iter()
            .map(|(namespace, id)| [namespace.as_str(), id.as_str()])
            .collect();
        Self {
            checkpoints: gone.len() as u64,
            places: json!(places).to_string(),
            values: json!(values).to_string(),
        }
    }
}

pub(super) fn retention(loaded: &BTreeMap<Place, Loaded>) -> Retention {
    Retention::new(loaded.values().map(|(summary, _)| summary.clone()))
}

pub(super) async fn take_away(
    transaction: &Connection,
    id: &ThreadId,
    going: &Going,
) -> Result<()> {
    let checkpoints = REMOVE_CHECKPOINTS.map(|sql| (sql, &going.places));
    for (sql, places) in checkpoints
        .into_iter()
        .chain([(REMOVE_VALUES, &going.values)])
    {
        let remove = sql.query(transaction).with(id.as_str());
        let remove = remove.with(places.as_str()).execute(transaction);
        remove.await.map_err(failed)?;
    }
    for sql in DELETE_EMPTY_THREAD {
        let delete = sql.query(transaction).with(id.as_str());
        delete.execute(transaction).await.map_err(failed)?;
    }
    Ok(())
}

/// A checkpoint with the version of each of its channels.
pub(super) type Loaded = (CheckpointSummary, BTreeMap<String, String>);

pub(super) async fn load(
    transaction: &Connection,
    id: &ThreadId,
) -> Result<BTreeMap<Place, Loaded>> {
    let of_thread = |sql: Sql| sql.query(transaction).with(id.as_str());
    let rows = of_thread(STORED_VERSIONS).rows(transaction).await;
    let rows = rows.map_err(failed)?;
    let stored = rows
        .iter()
        .map(stored_version)
        .collect::<Result<BTreeSet<_>, _>>();
    let stored = stored.map_err(failed)?;
    let rows = of_thread(CHECKPOINTS).rows(transaction).await;
    let rows = rows.map_err(failed)?;
    rows.iter().map(|row| summary(row, &stored)).collect()
}

fn stored_version(row: &QueryResult) -> Result<(String, String, String), DbErr> {
    let mut columns = Columns::new(row);
    Ok((columns.take()?, columns.take()?, columns.take()?))
}

fn summary(
    row: &QueryResult,
    stored: &BTreeSet<(String, String, String)>,
) -> Result<(Place, Loaded)> {
    let mut columns = Columns::new(row);
    let namespace: String = columns.take().map_err(failed)?;
    let id: String = columns.take().map_err(failed)?;
    let parent: Option<String> = columns.take().map_err(failed)?;
    let checkpoint: String = columns.take().map_err(failed)?;
    let metadata: String = columns.take().map_err(failed)?;
    let has_sends: bool = columns.take().map_err(failed)?;

    let checkpoint: CheckpointRow = read_json("checkpoint", &checkpoint)?;
    let metadata: Map<String, Json> = read_json("metadata", &metadata)?;
    let versions: BTreeMap<String, String> = checkpoint
        .channel_versions
        .iter()
        .map(|(channel, version)| (channel.clone(), version.to_string()))
        .collect();
    let has_value = |(channel, version): (&String, &String)| {
        let key = (namespace.clone(), channel.clone(), version.clone());
        (
            channel.clone(),
            checkpoint.channel_values.contains_key(channel) || stored.contains(&key),
        )
    };
    let summary = CheckpointSummary {
        namespace: Namespace::from(namespace.as_str()),
        id: CheckpointId::from(id),
        parent: parent.map(CheckpointId::from),
        made_at: checkpoint.time(),
        v: checkpoint.format(),
        metadata: CheckpointMetadata(metadata),
        channels: versions.iter().map(has_value).collect(),
        has_sends,
    };
    let place = (summary.namespace.clone(), summary.id.clone());
    Ok((place, (summary, versions)))
}
