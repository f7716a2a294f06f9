BEGIN IMMEDIATE;

SELECT COUNT(*) AS num_items FROM (SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE "agent_turns"."conversation_id" = ? AND ("agent_turns"."status" = ? OR "agent_turns"."status" IN (?, ?))) AS "sub_query";

INSERT INTO threads (thread_id, updated_at, epoch) VALUES ($1, $2, 1)
ON CONFLICT (thread_id) DO UPDATE
SET updated_at = max(threads.updated_at, excluded.updated_at), epoch = threads.epoch + 1
RETURNING epoch;

INSERT INTO "agent_idempotency_keys" ("conversation_id", "id", "fingerprint", "resource_id") VALUES (?, ?, ?, ?);

SELECT 1 FROM "agent_conversations" WHERE "agent_conversations"."id" = ?;

INSERT INTO "agent_conversations" ("id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at") VALUES (?, ?, ?, ?, ?, ?, ?);

INSERT INTO "agent_turns" ("conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

UPDATE agent_turns SET opened = true WHERE conversation_id = $1 AND id = $2;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL;

COMMIT;
