WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $11::bigint FOR UPDATE
), turn AS MATERIALIZED (
    SELECT 1 FROM thread CROSS JOIN LATERAL (
        SELECT FROM agent_turns
        WHERE conversation_id = $16 AND id = $17 AND status = $28 AND epoch = $29 FOR UPDATE
    ) seen
), touched AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = $1 AND EXISTS (SELECT FROM turn)
), told AS (INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT $12::uuid, $13::uuid, $14::bigint, $15::json, now() FROM turn
    WHERE $15 IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = $12 AND e.turn_id = $13 AND e.sequence = $14
    )), blobs AS (INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.* FROM turn, unnest($7::text[], $8::text[], $9::text[], $10::bytea[]) b
    ON CONFLICT DO NOTHING), written AS (INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $3, $4, $5::jsonb, $6::jsonb FROM turn
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata), said AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at
    FROM turn, unnest($30::uuid[], $31::uuid[], $32::text[], $33::text[], $34::text[],
        $35::timestamptz[]) m (id, conversation_id, role, content, metadata_, created_at)
), ended AS (
    UPDATE agent_turns SET assistant_message_id = $18, status = $19, error = $20,
        interrupt = $21::json, attempt = $22, epoch = $23, lease_owner = $24, lease_ms = $25,
        started_at = $26, updated_at = $27, lease_renewed_at = clock_timestamp()
    WHERE conversation_id = $16 AND id = $17 AND EXISTS (SELECT FROM turn)
) SELECT EXISTS (SELECT FROM turn) FROM thread;
