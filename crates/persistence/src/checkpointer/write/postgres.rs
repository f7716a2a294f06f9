//! The statements of PostgreSQL: one for whatever is written at once. Each returns the threads whose
//! fence refuses the write.
//!
//! What is written all the time has a text of its own; what is rare goes by that of groups, since
//! each table that a statement names costs, whether it writes to it or not.

use std::collections::HashSet;

use sea_orm::DbErr;
use yai_agentkit_core::NewWrites;

use super::{
    super::{
        NewRawCheckpoint, fence,
        statement::{
            self,
            Conflicts::{self, Possible, Unexpected},
            LAST_WRITE_COUNTS, Place, TOUCH,
        },
    },
    Fenced, New, Rows, Write, WriteRow,
};
use crate::{
    connection::Connection,
    sql::{Parameter, Query},
};

/// Stores what the fences admit. One that raises an epoch is alone, in a transaction.
pub(super) async fn write(
    connection: &Connection,
    writes: &[Write],
    conflicts: Conflicts,
) -> Result<Vec<bool>, DbErr> {
    let raising = writes.iter().find(|write| write.raises());
    let Some((raising, fenced)) = raising.and_then(|write| Some((write, write.fenced.as_ref()?)))
    else {
        return store(connection, writes, conflicts).await;
    };
    let transaction = connection.begin().await?;
    let admitted = if fence::take(&transaction, &raising.key().thread_id, fenced).await? {
        // It has the epoch by now.
        store(&transaction, writes, conflicts).await?
    } else {
        vec![false]
    };
    transaction.commit().await?;
    Ok(admitted)
}

async fn store(
    connection: &Connection,
    writes: &[Write],
    conflicts: Conflicts,
) -> Result<Vec<bool>, DbErr> {
    let refused = statement(writes, conflicts).rows(connection).await?;
    let refused = refused.iter().map(|row| row.try_get_by_index(0));
    let refused: HashSet<String> = refused.collect::<Result<_, _>>()?;
    let admits = |write: &Write| !refused.contains(write.key().thread_id.as_str());
    Ok(writes.iter().map(admits).collect())
}

/// What stores `writes`. No two of them may have one [`place`](Write::place).
pub(in crate::checkpointer) fn statement(writes: &[Write], conflicts: Conflicts) -> Query {
    let conflicts = if writes.iter().any(Write::replaces) {
        Possible
    } else {
        conflicts
    };
    match (writes, conflicts) {
        (
            [
                Write {
                    new: New::Checkpoint(new),
                    fenced: None,
                },
            ],
            _,
        ) => return put(new, None, conflicts),
        (
            [
                Write {
                    new: New::Writes(new),
                    fenced: None,
                },
            ],
            Unexpected,
        ) => return put_writes(new),
        (
            [
                Write {
                    new,
                    fenced: Some(fenced),
                },
            ],
            Unexpected,
        ) => return hold(new, fenced),
        ([first, second], Unexpected) => {
            if let Some((new, writes)) = as_step(first, second) {
                return put(new, Some(writes), Unexpected);
            }
        }
        _ => {}
    }
    // Alone it waits as long as it takes.
    let patience = (writes.len() > 1).then_some("100ms");
    group(&Rows::of(writes), patience, conflicts)
}

/// A checkpoint, and what one task wrote to the same thread and namespace: what LangGraph stores at
/// the end of a superstep. Half the work of a group of the two.
fn put(new: &NewRawCheckpoint, writes: Option<&NewWrites>, conflicts: Conflicts) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    query.push("WITH thread AS (\n    ");
    statement::touched(&mut query, place.thread);
    query.push("\n), blobs AS (\n    ");
    statement::values(&mut query, place, "thread", new, conflicts);
    if let Some(writes) = writes {
        query.push("\n), writes AS (\n    ");
        statement::writes(&mut query, place, "thread", writes);
    }
    query.push("\n)\n");
    statement::checkpoint(&mut query, place, "thread", new, conflicts);
    query
}

/// The checkpoint and the writes, in either order, where [`put`] takes both.
fn as_step<'a>(
    first: &'a Write,
    second: &'a Write,
) -> Option<(&'a NewRawCheckpoint, &'a NewWrites)> {
    if first.fenced.is_some() || second.fenced.is_some() {
        return None;
    }
    let (new, writes) = match (&first.new, &second.new) {
        (New::Checkpoint(new), New::Writes(writes))
        | (New::Writes(writes), New::Checkpoint(new)) => (new, writes),
        _ => return None,
    };
    let (put, of) = (&new.key, &writes.key);
    let is_step = put.thread_id == of.thread_id && put.namespace == of.namespace;
    is_step.then_some((new, writes))
}

/// The writes of a task.
fn put_writes(new: &NewWrites) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    query.push("WITH thread AS (\n    ");
    statement::locked(&mut query, place.thread);
    query.push("\n), locked AS MATERIALIZED (\n    SELECT count(*) FROM thread\n)\n");
    statement::writes(&mut query, place, "locked", new);
    query
}

/// What its thread admits if it has an epoch.
fn hold(new: &New, fenced: &Fenced) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, new.key());
    query.push("WITH thread AS ");
    let is_checkpoint = matches!(new, New::Checkpoint(_));
    statement::held(&mut query, place.thread, fenced.epoch, is_checkpoint);
    match new {
        New::Checkpoint(new) => {
            query.push(", ");
            let events = fenced.events.as_ref();
            statement::checkpoint_and_events(&mut query, place, "thread", new, events, Unexpected);
        }
        New::Writes(new) => {
            query.push(", writes AS (\n    ");
            statement::writes(&mut query, place, "thread", new);
            query.push("\n)");
        }
    }
    let thread = place.thread;
    query.push(format_args!(
        "\nSELECT {thread} WHERE NOT EXISTS (SELECT FROM thread)"
    ));
    query
}

/// Whatever is written at once. The threads are locked in the order of their bytes, so that two of
/// these never wait for each other in a ring; and who holds one of the threads for longer than
/// `patience` holds up the others only for so long.
///
/// Two texts for new rows, since those without a fence spare a quarter by not asking for one.
fn group(rows: &Rows<'_>, patience: Option<&str>, conflicts: Conflicts) -> Query {
    let mut query = Query::on_postgres();
    let with_checkpoint = touch_all(&mut query, rows, patience);
    let is_plain = rows.held.is_empty() && conflicts == Unexpected;
    let admitted = if is_plain {
        query.push("locked AS MATERIALIZED (SELECT count(*) FROM thread)");
        ""
    } else {
        hold_all(&mut query, rows, with_checkpoint);
        all_events(&mut query, rows);
        " WHERE r.thread_id <> ALL (refused)"
    };
    query.push(", blobs AS (\n    ");
    values(&mut query, rows, admitted, conflicts);
    query.push("\n), first_writes AS (\n    ");
    let on_conflict = conflicts.first_write_stays();
    writes(&mut query, &rows.first_writes, admitted, on_conflict);
    if conflicts == Possible {
        query.push("\n), last_writes AS (\n    ");
        writes(&mut query, &rows.last_writes, admitted, LAST_WRITE_COUNTS);
    }
    query.push(if is_plain {
        "\n)\n"
    } else {
        "\n), checkpoints AS (\n    "
    });
    checkpoints(&mut query, rows, admitted, conflicts);
    if !is_plain {
        query.push("\n)\nSELECT unnest(refused) FROM locked");
    }
    query
}

/// The threads without a fence. Returns those that get a checkpoint, whatever their fence.
fn touch_all(query: &mut Query, rows: &Rows<'_>, patience: Option<&str>) -> Parameter {
    let patience = query.bind(patience);
    let threads = query.column(&rows.threads, |id| *id);
    let with_checkpoint = query.column(&rows.checkpoints, |new| new.key.thread_id.as_str());
    query.push(format_args!(
        "WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', COALESCE({patience}, current_setting('lock_timeout')), true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest({threads}::text[]) u (id)
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ({with_checkpoint}::text[])
    RETURNING 1
), "
    ));
    with_checkpoint
}

/// The threads with a fence: `locked` is one row then, with those that refuse. Each is locked by its
/// key. The subquery hides how many they are: a plan for so many would always look cheaper than the
/// one for any number, and be made anew for each group, which takes longer than to run it.
fn hold_all(query: &mut Query, rows: &Rows<'_>, with_checkpoint: Parameter) {
    let threads = query.column(&rows.held, |(id, _)| *id);
    let epochs = query.column(&rows.held, |(_, epoch)| *epoch);
    query.push(format_args!(
        "held AS MATERIALIZED (
    SELECT t.thread_id
    FROM (SELECT count(*) FROM thread) before,
        unnest((SELECT {threads}::text[]), {epochs}::bigint[]) u (id, epoch)
    CROSS JOIN LATERAL (
        SELECT thread_id FROM threads WHERE thread_id = u.id AND epoch = u.epoch FOR UPDATE
    ) t
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = ANY (ARRAY(
        SELECT thread_id FROM held WHERE thread_id = ANY ({with_checkpoint}::text[])
    )){TOUCH}
), locked AS MATERIALIZED (
    SELECT ARRAY(
        SELECT u.id FROM unnest({threads}::text[]) u (id)
        WHERE u.id NOT IN (SELECT thread_id FROM held)
    ) AS refused
)"
    ));
}

fn all_events(query: &mut Query, rows: &Rows<'_>) {
    let batches = || rows.events.iter();
    let threads = query.column(batches(), |(thread, _)| *thread);
    let conversations = query.column(batches(), |(_, batch)| batch.conversation_id);
    let turns = query.column(batches(), |(_, batch)| batch.turn_id);
    let sequences = query.column(batches(), |(_, batch)| batch.sequence);
    let events = query.column(batches(), |(_, batch)| batch.events.as_str());
    query.push(format_args!(
        ", events AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT r.conversation_id, r.turn_id, r.sequence, r.events::json, now()
    FROM locked, unnest((SELECT {threads}::text[]), {conversations}::uuid[], {turns}::uuid[],
        {sequences}::bigint[], {events}::text[])
        r (thread_id, conversation_id, turn_id, sequence, events)
    WHERE r.thread_id <> ALL (refused) AND r.events IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = r.conversation_id AND e.turn_id = r.turn_id
            AND e.sequence = r.sequence
    )
)"
    ));
}

fn values(query: &mut Query, rows: &Rows<'_>, admitted: &str, conflicts: Conflicts) {
    let values = || rows.blobs.iter();
    let threads = query.column(values(), |(key, _)| key.thread_id.as_str());
    let namespaces = query.column(values(), |(key, _)| key.namespace.as_str());
    let channels = query.column(values(), |(_, stored)| stored.channel.as_str());
    let versions = query.column(values(), |(_, stored)| stored.version.as_str());
    let types = query.column(values(), |(_, stored)| stored.value.type_tag());
    let blobs = query.column(values(), |(_, stored)| stored.value.bytes());
    let on_conflict = conflicts.value_stays();
    query.push(format_args!(
        "INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked, unnest({threads}::text[], {namespaces}::text[], {channels}::text[],
        {versions}::text[], {types}::text[], {blobs}::bytea[]) r (thread_id){admitted}{on_conflict}"
    ));
}

fn writes(query: &mut Query, rows: &[WriteRow<'_>], admitted: &str, on_conflict: &str) {
    let threads = query.column(rows, |row| row.of.key.thread_id.as_str());
    let namespaces = query.column(rows, |row| row.of.key.namespace.as_str());
    let ids = query.column(rows, |row| row.of.key.checkpoint_id.as_str());
    let tasks = query.column(rows, |row| row.of.task_id.as_str());
    let paths = query.column(rows, |row| row.of.task_path.as_str());
    let indexes = query.column(rows, |row| row.index);
    let channels = query.column(rows, |row| row.write.channel.as_str());
    let types = query.column(rows, |row| row.write.value.type_tag());
    let blobs = query.column(rows, |row| row.write.value.bytes());
    query.push(format_args!(
        "INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest({threads}::text[], {namespaces}::text[], {ids}::text[],
        {tasks}::text[], {paths}::text[], {indexes}::int[], {channels}::text[], {types}::text[],
        {blobs}::bytea[]) r (thread_id){admitted}{on_conflict}"
    ));
}

fn checkpoints(query: &mut Query, rows: &Rows<'_>, admitted: &str, conflicts: Conflicts) {
    let new = || rows.checkpoints.iter();
    let threads = query.column(new(), |new| new.key.thread_id.as_str());
    let namespaces = query.column(new(), |new| new.key.namespace.as_str());
    let ids = query.column(new(), |new| new.key.checkpoint_id.as_str());
    let parents = query.column(new(), |new| new.parent.as_ref().map(|id| id.as_str()));
    let checkpoints = query.column(new(), |new| new.checkpoint.as_str());
    let metadata = query.column(new(), |new| new.metadata.as_str());
    let on_conflict = conflicts.checkpoint_is_replaced();
    query.push(format_args!(
        "INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
    FROM locked, unnest({threads}::text[], {namespaces}::text[], {ids}::text[], {parents}::text[],
        {checkpoints}::text[], {metadata}::text[])
        r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata){admitted}{on_conflict}"
    ));
}
