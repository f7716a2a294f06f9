//! PostgreSQL's parts of the statements that write to one thread: `$1` and `$2` are its id and the
//! namespace. Each writes once for each row of `$from`, which is one, or none where the thread does
//! not admit the write. `$conflict` is what becomes of a row that is there already.

/// A statement in two texts. To look for each row before it is inserted is a quarter of the work of
/// an insert, and nearly all rows are new: so the first text does not, and is refused as a whole
/// where one is there. Then the second does.
#[derive(Clone, Copy)]
pub(super) struct Insert {
    pub(super) of_new: &'static str,
    pub(super) of_any: &'static str,
}

impl Insert {
    pub(super) fn text(self, conflicts: Conflicts) -> &'static str {
        match conflicts {
            Conflicts::Unexpected => self.of_new,
            Conflicts::Possible => self.of_any,
        }
    }
}

/// Whether some of the rows may be there.
#[derive(Clone, Copy)]
pub(super) enum Conflicts {
    Unexpected,
    Possible,
}

/// Both texts of `$statement`, a macro that takes what becomes of a value, a checkpoint and a first
/// write that is there.
macro_rules! insert {
    ($statement:ident) => {
        $crate::checkpointer::statement::Insert {
            of_new: $statement!("", "", ""),
            of_any: $statement!(
                value_stays!(),
                checkpoint_is_replaced!(),
                first_write_stays!()
            ),
        }
    };
}
pub(super) use insert;

macro_rules! value_stays {
    () => {
        "
    ON CONFLICT DO NOTHING"
    };
}
pub(super) use value_stays;

macro_rules! checkpoint_is_replaced {
    () => {
        "
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata"
    };
}
pub(super) use checkpoint_is_replaced;

macro_rules! first_write_stays {
    () => {
        "
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING"
    };
}
pub(super) use first_write_stays;

macro_rules! last_write_counts {
    () => {
        "
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob"
    };
}
pub(super) use last_write_counts;

/// The values of a checkpoint: `$7` to `$10`.
macro_rules! blobs {
    ($from:literal, $conflict:expr) => {
        concat!(
            "INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.* FROM ",
            $from,
            ", unnest($7::text[], $8::text[], $9::text[], $10::bytea[]) b",
            $conflict
        )
    };
}
pub(super) use blobs;

/// A checkpoint: `$3` to `$6`.
macro_rules! checkpoint {
    ($from:literal, $conflict:expr) => {
        concat!(
            "INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $3, $4, $5::jsonb, $6::jsonb FROM ",
            $from,
            $conflict
        )
    };
}
pub(super) use checkpoint;

/// The writes of a task: `$3` to `$9`.
macro_rules! writes {
    ($from:literal, $conflict:expr) => {
        concat!(
            "INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM ",
            $from,
            ", unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w",
            $conflict
        )
    };
}
pub(super) use writes;

/// What a turn tells with a checkpoint, of the epoch `$11`: `$12` to `$15`. Events that are there
/// already are not told again.
macro_rules! told {
    ($from:literal) => {
        concat!(
            "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT $12::uuid, $13::uuid, $14::bigint, $15::json, now() FROM ",
            $from,
            "
    WHERE $15 IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = $12 AND e.turn_id = $13 AND e.sequence = $14
    )"
        )
    };
}
pub(super) use told;

/// The thread, whatever its epoch: the time of one that is there moves on.
macro_rules! thread {
    () => {
        "INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1"
    };
}
pub(super) use thread;

/// Raises the thread to `$epoch`.
macro_rules! raised {
    ($epoch:literal) => {
        concat!(
            "INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), ",
            $epoch,
            "::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1"
        )
    };
}
pub(super) use raised;
