WITH free AS MATERIALIZED (
    SELECT 1 WHERE NOT EXISTS (
        SELECT FROM agent_turns WHERE conversation_id = $2 AND status = 'running'
    ) AND NOT EXISTS (
        SELECT FROM agent_turns
        WHERE conversation_id = $2 AND status IN ('queued', 'waiting')
    )
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    SELECT $1, clock_timestamp(), 1 FROM free
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
    RETURNING epoch
), made AS (
    INSERT INTO agent_conversations (id, checkpoint_thread_id, created_at, updated_at)
    SELECT $2, $2, $4, $4 FROM thread
    ON CONFLICT DO NOTHING
), opened AS (
    INSERT INTO agent_turns (conversation_id, id, user_message_id, status, attempt, epoch,
        lease_owner, lease_ms, started_at, created_at, updated_at, opened)
    SELECT $2, $3, $11, $5, $6, epoch, $7, $8,
        $9, $10, $10, true
    FROM thread
), message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at, parts,
        parent_id, checkpoint_id)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at,
        m.parts::json, m.parent_id, m.checkpoint_id
    FROM thread, unnest($12::uuid[], $13::uuid[], $14::text[], $15::text[],
        $16::text[], $17::timestamptz[], $18::text[], $19::uuid[],
        $20::text[])
        m (id, conversation_id, role, content, metadata_, created_at, parts, parent_id,
            checkpoint_id)
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT $2, $3, n.*
    FROM thread, unnest($21::text[], $22::text[], $23::bytea[]) n
    ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
    SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL
), key AS (
    INSERT INTO agent_idempotency_keys (conversation_id, id, fingerprint, resource_id)
    SELECT $25, $24, $26, $27 FROM thread WHERE $24 IS NOT NULL
)
SELECT epoch FROM thread;
