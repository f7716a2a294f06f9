WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $3::bigint FOR UPDATE
), turn AS MATERIALIZED (
    SELECT 1 FROM thread CROSS JOIN LATERAL (
        SELECT FROM agent_turns
        WHERE conversation_id = $4 AND id = $5 AND status = $6
            AND epoch = $7
        FOR UPDATE
    ) seen
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = $1 AND EXISTS (SELECT FROM turn)
        AND updated_at < statement_timestamp() - INTERVAL '1 s'
), events AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT $8::uuid, $9::uuid, $10::bigint, $11::json, now()
    FROM turn
    WHERE $11 IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = $8 AND e.turn_id = $9 AND e.sequence = $10
    )
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM turn, unnest($12::text[], $13::text[], $14::text[], $15::bytea[]) b
    ON CONFLICT DO NOTHING
), checkpoint AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $16, $17, $18::jsonb, $19::jsonb
    FROM turn
    ON CONFLICT ON CONSTRAINT checkpoints_pkey
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at, parts,
        parent_id, checkpoint_id)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at,
        m.parts::json, m.parent_id, m.checkpoint_id
    FROM turn, unnest($20::uuid[], $21::uuid[], $22::text[], $23::text[],
        $24::text[], $25::timestamptz[], $26::text[], $27::uuid[],
        $28::text[])
        m (id, conversation_id, role, content, metadata_, created_at, parts, parent_id,
            checkpoint_id)
), changed AS (
    UPDATE agent_turns SET assistant_message_id = $29, input = $30::json, status = $31, error = $32, interrupt = $33::json, attempt = $34, epoch = $35, lease_owner = $36, lease_ms = $37, started_at = $38, updated_at = $39,
        lease_renewed_at = statement_timestamp()
    WHERE conversation_id = $4 AND id = $5 AND EXISTS (SELECT FROM turn)
)
SELECT EXISTS (SELECT FROM turn) FROM thread;
