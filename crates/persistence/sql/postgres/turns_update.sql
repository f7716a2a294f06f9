BEGIN;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE "agent_turns"."conversation_id" = $1 AND "agent_turns"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_turns" SET "user_message_id" = $1, "assistant_message_id" = $2, "input" = $3, "status" = $4, "error" = $5, "interrupt" = $6, "attempt" = $7, "epoch" = $8, "lease_owner" = $9, "lease_ms" = $10, "started_at" = $11, "created_at" = $12, "updated_at" = $13 WHERE "agent_turns"."conversation_id" = $14 AND "agent_turns"."id" = $15 RETURNING "conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at", "position";

COMMIT;
