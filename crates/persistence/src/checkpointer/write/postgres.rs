//! The statements of PostgreSQL, but for those of one write that asks a fence (`fence.rs`).

use std::collections::HashSet;

use sea_orm::DbErr;
use yai_agentkit_core::NewWrites;

use super::{
    super::{
        NewRawCheckpoint, fence,
        statement::{self, Conflicts, LAST_WRITE_COUNTS, Place},
    },
    New, Rows, Write, WriteRow,
};
use crate::{
    connection::Connection,
    sql::{Parameter, Query},
};

/// By the statements for such `conflicts`.
pub(super) async fn write(
    connection: &Connection,
    writes: &[Write],
    conflicts: Conflicts,
) -> Result<Vec<bool>, DbErr> {
    if let [
        Write {
            new,
            fenced: Some(fenced),
        },
    ] = writes
    {
        let admitted = fence::write(new, fenced, conflicts)
            .rows(connection)
            .await?;
        return Ok(vec![!admitted.is_empty()]);
    }
    if writes.iter().any(|write| write.fenced.is_some()) {
        let refused = fenced_group(&Rows::of(writes), conflicts);
        let refused = refused.rows(connection).await?;
        let refused = refused.iter().map(|row| row.try_get_by_index(0));
        let refused: HashSet<String> = refused.collect::<Result<_, _>>()?;
        let admits = |write: &Write| !refused.contains(write.key().thread_id.as_str());
        return Ok(writes.iter().map(admits).collect());
    }
    let query = match writes {
        [
            Write {
                new: New::Checkpoint(new),
                ..
            },
        ] => put(new, conflicts),
        [
            Write {
                new: New::Writes(new),
                ..
            },
        ] => put_writes(new, conflicts),
        _ => match as_step(writes) {
            Some((new, writes)) => step(new, writes, conflicts),
            None => group(&Rows::of(writes), conflicts),
        },
    };
    query.rows(connection).await?;
    Ok(vec![true; writes.len()])
}

/// A checkpoint.
pub(in crate::checkpointer) fn put(new: &NewRawCheckpoint, conflicts: Conflicts) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    put_values(&mut query, place, new, conflicts);
    query.push("\n)\n");
    statement::checkpoint(&mut query, place, "thread", new, conflicts);
    query
}

/// A checkpoint, and of the same thread and namespace what one task wrote: what LangGraph stores
/// at the end of a superstep. Half the work of a group of the two.
pub(in crate::checkpointer) fn step(
    new: &NewRawCheckpoint,
    writes: &NewWrites,
    conflicts: Conflicts,
) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    put_values(&mut query, place, new, conflicts);
    query.push("\n), writes AS (\n    ");
    statement::writes(&mut query, place, "thread", writes, conflicts);
    query.push("\n)\n");
    statement::checkpoint(&mut query, place, "thread", new, conflicts);
    query
}

fn put_values(query: &mut Query, place: Place, new: &NewRawCheckpoint, conflicts: Conflicts) {
    query.push("WITH thread AS (\n    ");
    statement::touched(query, place.thread);
    query.push("\n), blobs AS (\n    ");
    statement::values(query, place, "thread", new, conflicts);
}

/// The checkpoint and the writes of a [`step`], in either order.
fn as_step(writes: &[Write]) -> Option<(&NewRawCheckpoint, &NewWrites)> {
    let [first, second] = writes else { return None };
    let (new, writes) = match (&first.new, &second.new) {
        (New::Checkpoint(new), New::Writes(writes))
        | (New::Writes(writes), New::Checkpoint(new)) => (new, writes),
        _ => return None,
    };
    let (put, of) = (&new.key, &writes.key);
    let is_step =
        put.thread_id == of.thread_id && put.namespace == of.namespace && !writes.replaces();
    is_step.then_some((new, writes))
}

/// The writes of a task.
pub(in crate::checkpointer) fn put_writes(new: &NewWrites, conflicts: Conflicts) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    query.push("WITH thread AS (\n    ");
    statement::locked(&mut query, place.thread);
    query.push("\n), locked AS MATERIALIZED (\n    SELECT count(*) FROM thread\n)\n");
    statement::writes(&mut query, place, "locked", new, conflicts);
    query
}

/// Writes without a fence. The threads are sorted, so that two of these never wait for each other
/// in a ring; and who holds one of the threads for long holds up the others only for a moment.
pub(in crate::checkpointer) fn group(rows: &Rows<'_>, conflicts: Conflicts) -> Query {
    let mut query = Query::on_postgres();
    touch_all(&mut query, rows);
    query.push("locked AS MATERIALIZED (SELECT count(*) FROM thread)");
    values_and_first_writes(&mut query, rows, "", conflicts);
    // A table more to be opened.
    if !rows.last_writes.is_empty() {
        last_writes(&mut query, rows, "");
    }
    checkpoints(&mut query, rows, "", conflicts);
    query
}

/// Among them writes that hold a thread with an epoch. Returns the threads whose epoch is another:
/// nothing of theirs is written. Each thread is locked by its key, in the order of the arrays.
pub(in crate::checkpointer) fn fenced_group(rows: &Rows<'_>, conflicts: Conflicts) -> Query {
    const ADMITTED: &str = " WHERE r.thread_id <> ALL (refused)";
    let mut query = Query::on_postgres();
    let with_checkpoint = touch_all(&mut query, rows);
    hold_all(&mut query, rows, with_checkpoint);
    tell_all(&mut query, rows);
    values_and_first_writes(&mut query, rows, ADMITTED, conflicts);
    last_writes(&mut query, rows, ADMITTED);
    query.push(", written AS (");
    checkpoints(&mut query, rows, ADMITTED, conflicts);
    query.push("\n)\nSELECT unnest(refused) FROM locked");
    query
}

/// The threads without a fence. Returns those that get a checkpoint, whatever their fence.
fn touch_all(query: &mut Query, rows: &Rows<'_>) -> Parameter {
    let threads = query.column(&rows.threads, |id| *id);
    let with_checkpoint = query.column(&rows.checkpoints, |new| new.key.thread_id.as_str());
    query.push(format_args!(
        "WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest({threads}::text[]) u (id)
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ({with_checkpoint}::text[])
    RETURNING 1
), "
    ));
    with_checkpoint
}

/// The threads with a fence: `locked` is one row then, with those that refuse.
fn hold_all(query: &mut Query, rows: &Rows<'_>, with_checkpoint: Parameter) {
    let threads = query.column(&rows.held, |(id, _)| *id);
    let epochs = query.column(&rows.held, |(_, epoch)| *epoch);
    query.push(format_args!(
        "held AS MATERIALIZED (
    SELECT t.thread_id
    FROM (SELECT count(*) FROM thread) before,
        unnest({threads}::text[], {epochs}::bigint[]) u (id, epoch)
    CROSS JOIN LATERAL (
        SELECT thread_id FROM threads WHERE thread_id = u.id AND epoch = u.epoch FOR UPDATE
    ) t
), touched AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, statement_timestamp())
    WHERE thread_id = ANY (ARRAY(
        SELECT thread_id FROM held WHERE thread_id = ANY ({with_checkpoint}::text[])
    ))
), locked AS MATERIALIZED (
    SELECT ARRAY(
        SELECT u.id FROM unnest({threads}::text[]) u (id)
        WHERE u.id NOT IN (SELECT thread_id FROM held)
    ) AS refused
)"
    ));
}

fn tell_all(query: &mut Query, rows: &Rows<'_>) {
    let batches = || rows.events.iter();
    let threads = query.column(batches(), |(thread, _)| *thread);
    let conversations = query.column(batches(), |(_, batch)| batch.conversation_id);
    let turns = query.column(batches(), |(_, batch)| batch.turn_id);
    let sequences = query.column(batches(), |(_, batch)| batch.sequence);
    let events = query.column(batches(), |(_, batch)| batch.events.as_str());
    query.push(format_args!(
        ", told AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT r.conversation_id, r.turn_id, r.sequence, r.events::json, now()
    FROM locked, unnest({threads}::text[], {conversations}::uuid[], {turns}::uuid[],
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

fn values_and_first_writes(
    query: &mut Query,
    rows: &Rows<'_>,
    admitted: &str,
    conflicts: Conflicts,
) {
    let values = || rows.blobs.iter();
    let threads = query.column(values(), |(key, _)| key.thread_id.as_str());
    let namespaces = query.column(values(), |(key, _)| key.namespace.as_str());
    let channels = query.column(values(), |(_, stored)| stored.channel.as_str());
    let versions = query.column(values(), |(_, stored)| stored.version.as_str());
    let types = query.column(values(), |(_, stored)| stored.value.type_tag());
    let blobs = query.column(values(), |(_, stored)| stored.value.bytes());
    let on_conflict = conflicts.value_stays();
    query.push(format_args!(
        ", blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked, unnest({threads}::text[], {namespaces}::text[], {channels}::text[],
        {versions}::text[], {types}::text[], {blobs}::bytea[]) r (thread_id){admitted}{on_conflict}
), first_writes AS (
    "
    ));
    let first_writes = &rows.first_writes;
    writes(query, first_writes, admitted, conflicts.first_write_stays());
    query.push("\n)");
}

fn last_writes(query: &mut Query, rows: &Rows<'_>, admitted: &str) {
    query.push(", last_writes AS (\n    ");
    writes(query, &rows.last_writes, admitted, LAST_WRITE_COUNTS);
    query.push("\n)");
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
        "
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
FROM locked, unnest({threads}::text[], {namespaces}::text[], {ids}::text[], {parents}::text[],
    {checkpoints}::text[], {metadata}::text[])
    r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata){admitted}{on_conflict}"
    ));
}
