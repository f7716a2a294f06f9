WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $3::bigint FOR UPDATE
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = $1 AND EXISTS (SELECT FROM thread)
        AND updated_at < statement_timestamp() - INTERVAL '1 s'
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
), checkpoint AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $12, $13, $14::jsonb, $15::jsonb
    FROM thread
)
SELECT $1 WHERE NOT EXISTS (SELECT FROM thread);
