BEGIN;

SELECT COUNT(*) AS num_items FROM (SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE "agent_turns"."conversation_id" = $1 AND ("agent_turns"."status" = $2 OR "agent_turns"."status" IN ($3, $4))) AS "sub_query";

INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), 1)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
RETURNING epoch;

INSERT INTO "agent_idempotency_keys" ("conversation_id", "id", "fingerprint", "resource_id") VALUES ($1, $2, $3, $4);

SELECT 1 FROM "agent_conversations" WHERE "agent_conversations"."id" = $1;

INSERT INTO "agent_conversations" ("id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at") VALUES ($1, $2, $3, $4, $5, $6, $7);

INSERT INTO "agent_turns" ("conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

UPDATE agent_turns SET opened = true WHERE conversation_id = $1 AND id = $2;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL;

COMMIT;
