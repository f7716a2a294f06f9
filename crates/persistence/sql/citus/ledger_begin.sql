BEGIN;

SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND id = $2
    AND status = 'queued' AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status IN ('queued', 'waiting')
        AND (o.status = 'waiting' OR o.position < agent_turns.position)
);

INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), 1)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
RETURNING epoch;

UPDATE agent_turns SET assistant_message_id = $1, input = $2::json, status = $3, error = $4, interrupt = $5::json, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = statement_timestamp()
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

COMMIT;
