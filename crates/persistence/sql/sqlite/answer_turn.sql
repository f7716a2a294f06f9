BEGIN IMMEDIATE;

INSERT INTO threads (thread_id, epoch, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE epoch < excluded.epoch;

INSERT OR FAIL INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;

UPDATE agent_turns SET assistant_message_id = $3, status = $4, error = $5,
    interrupt = $6, attempt = $7, epoch = $8, lease_owner = $9, lease_ms = $10, started_at = $11,
    updated_at = $12, input = $15, lease_renewed_at = unixepoch('now', 'subsec')
WHERE conversation_id = $1 AND id = $2 AND status = $13 AND epoch = $14;

INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4, $5);

COMMIT;
