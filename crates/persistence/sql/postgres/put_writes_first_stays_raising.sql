BEGIN;

INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), $2)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch;

WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', COALESCE($1, current_setting('lock_timeout')), true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest($2::text[]) u (id)
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ($3::text[])
    RETURNING 1
), held AS MATERIALIZED (
    SELECT t.thread_id
    FROM (SELECT count(*) FROM thread) before,
        unnest((SELECT $4::text[]), $5::bigint[]) u (id, epoch)
    CROSS JOIN LATERAL (
        SELECT thread_id FROM threads WHERE thread_id = u.id AND epoch = u.epoch FOR UPDATE
    ) t
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = ANY (ARRAY(
        SELECT thread_id FROM held WHERE thread_id = ANY ($3::text[])
    ))
        AND updated_at < statement_timestamp() - INTERVAL '1 s'
), locked AS MATERIALIZED (
    SELECT ARRAY(
        SELECT u.id FROM unnest($4::text[]) u (id)
        WHERE u.id NOT IN (SELECT thread_id FROM held)
    ) AS refused
), events AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT r.conversation_id, r.turn_id, r.sequence, r.events::json, now()
    FROM locked, unnest((SELECT $6::text[]), $7::uuid[], $8::uuid[],
        $9::bigint[], $10::text[])
        r (thread_id, conversation_id, turn_id, sequence, events)
    WHERE r.thread_id <> ALL (refused) AND r.events IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = r.conversation_id AND e.turn_id = r.turn_id
            AND e.sequence = r.sequence
    )
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked, unnest($11::text[], $12::text[], $13::text[],
        $14::text[], $15::text[], $16::bytea[]) r (thread_id) WHERE r.thread_id <> ALL (refused)
    ON CONFLICT DO NOTHING
), first_writes AS (
    INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($17::text[], $18::text[], $19::text[],
        $20::text[], $21::text[], $22::int[], $23::text[], $24::text[],
        $25::bytea[]) r (thread_id) WHERE r.thread_id <> ALL (refused)
    ON CONFLICT ON CONSTRAINT checkpoint_writes_pkey DO NOTHING
), last_writes AS (
    INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($26::text[], $27::text[], $28::text[],
        $29::text[], $30::text[], $31::int[], $32::text[], $33::text[],
        $34::bytea[]) r (thread_id) WHERE r.thread_id <> ALL (refused)
    ON CONFLICT ON CONSTRAINT checkpoint_writes_pkey
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
), checkpoints AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
    FROM locked, unnest($35::text[], $36::text[], $37::text[], $38::text[],
        $39::text[], $40::text[])
        r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata) WHERE r.thread_id <> ALL (refused)
    ON CONFLICT ON CONSTRAINT checkpoints_pkey
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)
SELECT unnest(refused) FROM locked;

COMMIT;
