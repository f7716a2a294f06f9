BEGIN;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

SELECT type, blob FROM agent_turn_records
WHERE conversation_id = $1 AND turn_id = $2 AND name = $3;

INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL;

COMMIT;
