BEGIN IMMEDIATE;

SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND id = $2
    AND status = 'queued' AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status IN ('queued', 'waiting')
        AND (o.status = 'waiting' OR o.position < agent_turns.position)
);

INSERT INTO threads (thread_id, updated_at, epoch) VALUES ($1, $2, 1)
ON CONFLICT (thread_id) DO UPDATE
SET updated_at = max(threads.updated_at, excluded.updated_at), epoch = threads.epoch + 1
RETURNING epoch;

UPDATE agent_turns SET assistant_message_id = $1, input = $2, status = $3, error = $4, interrupt = $5, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = unixepoch('now', 'subsec')
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

COMMIT;
