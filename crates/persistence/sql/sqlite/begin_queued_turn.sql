BEGIN IMMEDIATE;

SAVEPOINT entered;

INSERT INTO threads (thread_id, epoch, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE epoch < excluded.epoch;

INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT $1, $2, $3, $4, $5 WHERE $4 IS NOT (
    SELECT events FROM agent_turn_events
    WHERE conversation_id = $1 AND turn_id = $2 AND sequence = $3
);

INSERT OR FAIL INTO threads (thread_id, updated_at)
SELECT * FROM (VALUES (?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE substr(excluded.updated_at, 1, 19) > substr(threads.updated_at, 1, 19);
INSERT OR FAIL INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;
INSERT OR FAIL INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ?;

UPDATE agent_turns SET assistant_message_id = $1, input = $2, status = $3, error = $4, interrupt = $5, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = unixepoch('now', 'subsec')
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

RELEASE SAVEPOINT entered;

COMMIT;
