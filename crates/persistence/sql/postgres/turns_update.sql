BEGIN;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE "agent_turns"."conversation_id" = $1 AND "agent_turns"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_turns" SET "user_message_id" = $1, "assistant_message_id" = $2, "status" = $3, "error" = $4, "interrupt" = $5, "attempt" = $6, "epoch" = $7, "lease_owner" = $8, "lease_ms" = $9, "started_at" = $10, "created_at" = $11, "updated_at" = $12 WHERE "agent_turns"."conversation_id" = $13 AND "agent_turns"."id" = $14 RETURNING "conversation_id", "id", "user_message_id", "assistant_message_id", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at", "position";

COMMIT;
