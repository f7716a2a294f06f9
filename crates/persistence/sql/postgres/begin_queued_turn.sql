BEGIN;

WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $3::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), told AS (
    INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
    SELECT $4::uuid, $5::uuid, $6::bigint, $7::json, now()
    FROM thread
    WHERE $7 IS DISTINCT FROM (
        SELECT e.events::text FROM agent_turn_events e
        WHERE e.conversation_id = $4 AND e.turn_id = $5 AND e.sequence = $6
    )
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($8::text[], $9::text[], $10::text[], $11::bytea[]) b
    ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $12, $13, $14::jsonb, $15::jsonb
    FROM thread
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)
SELECT 1 FROM thread;

DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2;

UPDATE agent_turns SET assistant_message_id = $3, status = $4, error = $5,
    interrupt = $6, attempt = $7, epoch = $8, lease_owner = $9, lease_ms = $10, started_at = $11,
    updated_at = $12, lease_renewed_at = statement_timestamp()
WHERE conversation_id = $1 AND id = $2 AND status = $13 AND epoch = $14;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6);

COMMIT;
