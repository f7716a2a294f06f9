BEGIN IMMEDIATE;

UPDATE agent_turns SET assistant_message_id = $3, status = $4, error = $5,
    interrupt = $6, attempt = $7, epoch = $8, lease_owner = $9, lease_ms = $10, started_at = $11,
    updated_at = $12, input = $15, lease_renewed_at = unixepoch('now', 'subsec')
WHERE conversation_id = $1 AND id = $2 AND status = $13 AND epoch = $14;

INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4, $5);

COMMIT;
