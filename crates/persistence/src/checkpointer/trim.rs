//! Removing the checkpoints of a thread that are not kept any more: by many sweeps, a part in each,
//! so that no turn waits for long.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use yai_agentkit_core::{
    Result, ThreadId,
    retention::{Place, Removed},
};

use super::maintenance::{self, Going, failed, load};
pub(crate) use super::maintenance::{delete_all, leave_epoch, lock};
use crate::{
    connection::Connection,
    sql::{Query, Sql},
};

/// How many checkpoints go in one transaction.
const AT_ONCE: usize = 500;

/// How many bytes go: $2 and $3 are JSON arrays of [namespace, id] and [namespace, channel, version].
/// On PostgreSQL as they are stored, which reads none of them.
const MEASURE: Sql = Sql {
    postgres: "SELECT (
    SELECT COALESCE(sum(pg_column_size(c.checkpoint) + pg_column_size(c.metadata)), 0)
    FROM checkpoints c JOIN jsonb_array_elements($2::jsonb) gone
    ON c.checkpoint_ns = gone ->> 0 AND c.checkpoint_id = gone ->> 1 WHERE c.thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(w.blob)), 0)
    FROM checkpoint_writes w JOIN jsonb_array_elements($2::jsonb) gone
    ON w.checkpoint_ns = gone ->> 0 AND w.checkpoint_id = gone ->> 1 WHERE w.thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(b.blob)), 0)
    FROM checkpoint_blobs b JOIN jsonb_array_elements($3::jsonb) gone
    ON b.checkpoint_ns = gone ->> 0 AND b.channel = gone ->> 1 AND b.version = gone ->> 2
    WHERE b.thread_id = $1
)::bigint",
    sqlite: "SELECT (
    SELECT COALESCE(sum(octet_length(checkpoint) + octet_length(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1 AND (checkpoint_ns, checkpoint_id) IN
        (SELECT value ->> 0, value ->> 1 FROM json_each($2))
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0)
    FROM checkpoint_writes WHERE thread_id = $1 AND (checkpoint_ns, checkpoint_id) IN
        (SELECT value ->> 0, value ->> 1 FROM json_each($2))
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0)
    FROM checkpoint_blobs WHERE thread_id = $1 AND (checkpoint_ns, channel, version) IN
        (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($3))
)",
};

/// All of a thread: how many checkpoints, and how many bytes.
const MEASURE_THREAD: Sql = Sql {
    postgres: "SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = $1), (
    SELECT COALESCE(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(blob)), 0) FROM checkpoint_writes WHERE thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(blob)), 0) FROM checkpoint_blobs WHERE thread_id = $1
)::bigint",
    sqlite: "SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = $1), (
    SELECT COALESCE(sum(octet_length(checkpoint) + octet_length(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0) FROM checkpoint_writes WHERE thread_id = $1
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0) FROM checkpoint_blobs WHERE thread_id = $1
)",
};

const PRUNED: Sql = Sql {
    postgres: "UPDATE threads SET pruned_at = statement_timestamp() WHERE thread_id = $1",
    sqlite: "UPDATE threads SET pruned_at = unixepoch('now', 'subsec') WHERE thread_id = $1",
};

/// The rule by which checkpoints stay.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) last: u64,
    pub(crate) since: DateTime<Utc>,
}

/// Removes what goes by the rule, and tells how much that was.
pub(crate) async fn trim(connection: &Connection, id: &ThreadId, kept: Kept) -> Result<Removed> {
    let mut removed = Removed::default();
    loop {
        let (part, is_last) = trim_a_part(connection, id, kept).await?;
        removed += part;
        if is_last {
            return Ok(removed);
        }
    }
}

async fn trim_a_part(
    connection: &Connection,
    id: &ThreadId,
    kept: Kept,
) -> Result<(Removed, bool)> {
    let transaction = connection.begin().await.map_err(failed)?;
    lock(&transaction, id).await?;
    let loaded = load(&transaction, id).await?;
    let mut gone = maintenance::retention(&loaded).all_but_recent(kept.last, kept.since);
    let is_last = gone.len() <= AT_ONCE;
    if !is_last {
        gone = last(gone);
    }
    let mut removed = Removed::default();
    if !gone.is_empty() {
        let going = Going::of(&loaded, &gone);
        removed = measure(&transaction, id, &going).await?;
        maintenance::take_away(&transaction, id, &going).await?;
    }
    if is_last {
        let pruned = PRUNED.query(&transaction).with(id.as_str());
        pruned.execute(&transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok((removed, is_last))
}

/// The last ones, so that those that stay for now have their ancestors.
fn last(gone: BTreeSet<Place>) -> BTreeSet<Place> {
    let mut gone: Vec<Place> = gone.into_iter().collect();
    gone.sort_by(|one, other| one.1.cmp(&other.1));
    gone.split_off(gone.len() - AT_ONCE).into_iter().collect()
}

/// How much [`trim`] would remove.
pub(crate) async fn would_trim(
    connection: &Connection,
    id: &ThreadId,
    kept: Kept,
) -> Result<Removed> {
    let loaded = load(connection, id).await?;
    let gone = maintenance::retention(&loaded).all_but_recent(kept.last, kept.since);
    if gone.is_empty() {
        return Ok(Removed::default());
    }
    measure(connection, id, &Going::of(&loaded, &gone)).await
}

async fn measure(connection: &Connection, id: &ThreadId, going: &Going) -> Result<Removed> {
    let measure = MEASURE.query(connection).with(id.as_str());
    let measure = measure
        .with(going.places.as_str())
        .with(going.values.as_str());
    let [bytes] = numbers(connection, measure).await?;
    Ok(Removed {
        conversations: 0,
        checkpoints: going.checkpoints,
        bytes,
    })
}

/// How much a thread has.
pub(crate) async fn size(connection: &Connection, id: &ThreadId) -> Result<Removed> {
    let measure = MEASURE_THREAD.query(connection).with(id.as_str());
    let [checkpoints, bytes] = numbers(connection, measure).await?;
    Ok(Removed {
        conversations: 0,
        checkpoints,
        bytes,
    })
}

async fn numbers<const COUNT: usize>(
    connection: &Connection,
    query: Query,
) -> Result<[u64; COUNT]> {
    let rows = query.rows(connection).await.map_err(failed)?;
    let mut numbers = [0; COUNT];
    for row in rows {
        for (place, number) in numbers.iter_mut().enumerate() {
            let stored: i64 = row.try_get_by_index(place).map_err(failed)?;
            *number = stored.unsigned_abs();
        }
    }
    Ok(numbers)
}
