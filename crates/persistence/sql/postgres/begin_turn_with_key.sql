WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $3::bigint)
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), events AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT $4::uuid, $5::uuid, $6::bigint, $7::json, now()
    FROM thread
    WHERE $7 IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = $4 AND e.turn_id = $5 AND e.sequence = $6
    )
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($8::text[], $9::text[], $10::text[], $11::bytea[]) b
    ON CONFLICT DO NOTHING
), checkpoint AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $12, $13, $14::jsonb, $15::jsonb
    FROM thread
    ON CONFLICT ON CONSTRAINT checkpoints_pkey
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at, parts,
        parent_id, checkpoint_id)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at,
        m.parts::json, m.parent_id, m.checkpoint_id
    FROM thread, unnest($16::uuid[], $17::uuid[], $18::text[], $19::text[],
        $20::text[], $21::timestamptz[], $22::text[], $23::uuid[],
        $24::text[])
        m (id, conversation_id, role, content, metadata_, created_at, parts, parent_id,
            checkpoint_id)
), turn AS (
    INSERT INTO agent_turns (conversation_id, id, created_at, user_message_id,
        assistant_message_id, input, status, error, interrupt, attempt, epoch, lease_owner, lease_ms, started_at, updated_at)
    SELECT $25, $26, $27, $28,
        $29, $30::json, $31, $32, $33::json, $34, $35, $36, $37, $38, $39
    FROM thread
), key AS (
    INSERT INTO agent_idempotency_keys (conversation_id, id, fingerprint, resource_id)
    SELECT $41, $40, $42, $43 FROM thread WHERE $40 IS NOT NULL
)
SELECT true FROM thread;
