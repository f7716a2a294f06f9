WITH turn AS MATERIALIZED (
    SELECT 1 FROM agent_turns
    WHERE conversation_id = $1 AND id = $2 AND status = $3 AND epoch = $4
    FOR UPDATE
), message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at
    FROM turn, unnest($5::uuid[], $6::uuid[], $7::text[], $8::text[],
        $9::text[], $10::timestamptz[])
        m (id, conversation_id, role, content, metadata_, created_at)
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT $1, $2, n.*
    FROM turn, unnest($11::text[], $12::text[], $13::bytea[]) n
    ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
    SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL
), changed AS (
    UPDATE agent_turns SET assistant_message_id = $14, input = $15::json, status = $16, error = $17, interrupt = $18::json, attempt = $19, epoch = $20, lease_owner = $21, lease_ms = $22, started_at = $23, updated_at = $24,
        lease_renewed_at = statement_timestamp()
    WHERE conversation_id = $1 AND id = $2 AND EXISTS (SELECT FROM turn)
)
SELECT 1 FROM turn;
