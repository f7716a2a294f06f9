BEGIN;

INSERT INTO "agent_idempotency_keys" ("conversation_id", "id", "fingerprint", "resource_id") VALUES ($1, $2, $3, $4);

INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), $2)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch;

INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT $1, $2, $3, $4::json, now() WHERE $4 IS DISTINCT FROM (
    SELECT events::text FROM agent_turn_events
    WHERE conversation_id = $1 AND turn_id = $2 AND sequence = $3
);

INSERT INTO threads (thread_id, updated_at)
VALUES ($1, clock_timestamp())
ON CONFLICT (thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE excluded.updated_at > threads.updated_at;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING;

INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES ($1, $2, $3, $4, $5::jsonb, $6::jsonb)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

INSERT INTO "agent_turns" ("conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

COMMIT;
