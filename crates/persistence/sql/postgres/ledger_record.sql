WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $2::bigint FOR SHARE
), before AS MATERIALIZED (
    SELECT type, blob FROM agent_turn_records
    WHERE conversation_id = $3 AND turn_id = $4 AND name = $5
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT $3, $4, $5, $6, $7 FROM thread
    ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
    SET type = excluded.type, blob = excluded.blob
    WHERE r.type IS NULL AND excluded.type IS NOT NULL
    RETURNING 1
)
SELECT (SELECT type FROM before), (SELECT blob FROM before),
    EXISTS (SELECT FROM noted) AND NOT EXISTS (SELECT FROM before)
FROM thread;
