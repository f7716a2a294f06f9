//! The fragments of PostgreSQL's statements that write to one thread. Each writes once for each row
//! of `from`, which is one, or none where the thread does not admit the write.

use yai_agentkit_core::{CheckpointKey, NewWrites};

use super::NewRawCheckpoint;
use crate::{
    events::EventRow,
    sql::{Parameter, Query},
};

/// Whether some of the rows may be there. To look for each row before it is inserted is a quarter
/// of the work of an insert, and nearly all rows are new: so the first text of a statement does not,
/// and is refused as a whole where one is there. Then the second does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflicts {
    Unexpected,
    Possible,
}

impl Conflicts {
    fn or_nothing(self, clause: &'static str) -> &'static str {
        match self {
            Self::Unexpected => "",
            Self::Possible => clause,
        }
    }

    pub(super) fn value_stays(self) -> &'static str {
        self.or_nothing("\n    ON CONFLICT DO NOTHING")
    }

    pub(super) fn first_write_stays(self) -> &'static str {
        self.or_nothing(
            "
    ON CONFLICT ON CONSTRAINT checkpoint_writes_pkey DO NOTHING",
        )
    }

    pub(super) fn checkpoint_is_replaced(self) -> &'static str {
        self.or_nothing(
            "
    ON CONFLICT ON CONSTRAINT checkpoints_pkey
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata",
        )
    }
}

pub(super) const LAST_WRITE_COUNTS: &str = "
    ON CONFLICT ON CONSTRAINT checkpoint_writes_pkey
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob";

/// A thread and a namespace.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) thread: Parameter,
    namespace: Parameter,
}

impl Place {
    pub(super) fn of(query: &mut Query, key: &CheckpointKey) -> Self {
        Self {
            thread: query.bind(key.thread_id.as_str()),
            namespace: query.bind(key.namespace.as_str()),
        }
    }
}

/// The thread, whatever its epoch: the time of one that is there moves on.
pub(super) fn touched(query: &mut Query, thread: Parameter) {
    query.push(format_args!(
        "INSERT INTO threads AS t (thread_id, updated_at) VALUES ({thread}, clock_timestamp())
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1"
    ));
}

/// The thread, whatever its epoch: one that is there is only locked, since its time is indexed.
pub(super) fn locked(query: &mut Query, thread: Parameter) {
    query.push(format_args!(
        "INSERT INTO threads AS t (thread_id, updated_at) VALUES ({thread}, clock_timestamp())
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = t.updated_at WHERE false
    RETURNING 1"
    ));
}

/// The thread, if it has `epoch`. The time of one that gets no checkpoint stays, and of one that gets
/// many is right to the second: it is indexed.
pub(super) fn held(query: &mut Query, thread: Parameter, epoch: i64, is_checkpoint: bool) {
    let epoch = query.bind(epoch);
    query.push(format_args!(
        "MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = {thread} AND epoch = {epoch}::bigint FOR UPDATE
)"
    ));
    if is_checkpoint {
        query.push(format_args!(
            ", touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = {thread} AND EXISTS (SELECT FROM thread){TOUCH}
)"
        ));
    }
}

/// Whether a step changes the time of its thread.
pub(super) const TOUCH: &str = "
        AND updated_at < statement_timestamp() - INTERVAL '1 s'";

/// The values of a checkpoint.
pub(super) fn values(
    query: &mut Query,
    place: Place,
    from: &str,
    new: &NewRawCheckpoint,
    conflicts: Conflicts,
) {
    let Place { thread, namespace } = place;
    let rows = || new.values.iter();
    let channels = query.column(rows(), |stored| stored.channel.as_str());
    let versions = query.column(rows(), |stored| stored.version.as_str());
    let types = query.column(rows(), |stored| stored.value.type_tag());
    let blobs = query.column(rows(), |stored| stored.value.bytes());
    let on_conflict = conflicts.value_stays();
    query.push(format_args!(
        "INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT {thread}, {namespace}, b.*
    FROM {from}, unnest({channels}::text[], {versions}::text[], {types}::text[], {blobs}::bytea[]) b{on_conflict}"
    ));
}

pub(super) fn checkpoint(
    query: &mut Query,
    place: Place,
    from: &str,
    new: &NewRawCheckpoint,
    conflicts: Conflicts,
) {
    let Place { thread, namespace } = place;
    let id = query.bind(new.key.checkpoint_id.as_str());
    let parent = query.bind(new.parent.as_ref().map(|id| id.as_str()));
    let checkpoint = query.bind(new.checkpoint.as_str());
    let metadata = query.bind(new.metadata.as_str());
    let on_conflict = conflicts.checkpoint_is_replaced();
    query.push(format_args!(
        "INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT {thread}, {namespace}, {id}, {parent}, {checkpoint}::jsonb, {metadata}::jsonb
    FROM {from}{on_conflict}"
    ));
}

/// The writes of a task, none of which is there.
pub(super) fn writes(query: &mut Query, place: Place, from: &str, new: &NewWrites) {
    let Place { thread, namespace } = place;
    let rows = new.rows();
    let id = query.bind(new.key.checkpoint_id.as_str());
    let task = query.bind(new.task_id.as_str());
    let path = query.bind(new.task_path.as_str());
    let indexes = query.column(&rows, |(index, _)| *index);
    let channels = query.column(&rows, |(_, write)| write.channel.as_str());
    let types = query.column(&rows, |(_, write)| write.value.type_tag());
    let blobs = query.column(&rows, |(_, write)| write.value.bytes());
    query.push(format_args!(
        "INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT {thread}, {namespace}, {id}, {task}, {path}, w.*
    FROM {from}, unnest({indexes}::int[], {channels}::text[], {types}::text[], {blobs}::bytea[]) w"
    ));
}

/// The events that are stored with a checkpoint, unless they are there already.
fn events(query: &mut Query, from: &str, batch: &EventRow) {
    let conversation = query.bind(batch.conversation_id);
    let turn = query.bind(batch.turn_id);
    let sequence = query.bind(batch.sequence);
    let events = query.bind(batch.events.as_str());
    query.push(format_args!(
        "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT {conversation}::uuid, {turn}::uuid, {sequence}::bigint, {events}::json, now()
    FROM {from}
    WHERE {events} IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = {conversation} AND e.turn_id = {turn} AND e.sequence = {sequence}
    )"
    ));
}

/// A checkpoint with its values and events, as parts of a `WITH`.
pub(super) fn checkpoint_and_events(
    query: &mut Query,
    place: Place,
    from: &str,
    new: &NewRawCheckpoint,
    batch: Option<&EventRow>,
    conflicts: Conflicts,
) {
    if let Some(batch) = batch {
        query.push("events AS (\n    ");
        events(query, from, batch);
        query.push("\n), ");
    }
    query.push("blobs AS (\n    ");
    values(query, place, from, new, conflicts);
    query.push("\n), checkpoint AS (\n    ");
    checkpoint(query, place, from, new, conflicts);
    query.push("\n)");
}
