BEGIN;

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

DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2;

UPDATE agent_turns SET assistant_message_id = $1, input = $2::json, status = $3, error = $4, interrupt = $5::json, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = statement_timestamp()
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

COMMIT;
