WITH turn AS MATERIALIZED (
    SELECT 1 FROM agent_turns
    WHERE conversation_id = $1 AND id = $2 AND status = $3 AND epoch = $4
    FOR UPDATE
), message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at, parts,
        parent_id, checkpoint_id)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at,
        m.parts::json, m.parent_id, m.checkpoint_id
    FROM turn, unnest($5::uuid[], $6::uuid[], $7::text[], $8::text[],
        $9::text[], $10::timestamptz[], $11::text[], $12::uuid[],
        $13::text[])
        m (id, conversation_id, role, content, metadata_, created_at, parts, parent_id,
            checkpoint_id)
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT $1, $2, n.*
    FROM turn, unnest($14::text[], $15::text[], $16::bytea[]) n
    ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
    SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL
), changed AS (
    UPDATE agent_turns SET assistant_message_id = $17, input = $18::json, status = $19, error = $20, interrupt = $21::json, attempt = $22, epoch = $23, lease_owner = $24, lease_ms = $25, started_at = $26, updated_at = $27,
        lease_renewed_at = statement_timestamp()
    WHERE conversation_id = $1 AND id = $2 AND EXISTS (SELECT FROM turn)
)
SELECT 1 FROM turn;
