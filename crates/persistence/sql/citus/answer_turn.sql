BEGIN;

INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), $2)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch;

INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING;

UPDATE agent_turns SET assistant_message_id = $1, input = $2::json, status = $3, error = $4, interrupt = $5::json, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = statement_timestamp()
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4::json, now());

COMMIT;
