BEGIN IMMEDIATE;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE "agent_turns"."conversation_id" = ? AND "agent_turns"."id" = ? LIMIT ?;

UPDATE "agent_turns" SET "user_message_id" = ?, "assistant_message_id" = ?, "input" = ?, "status" = ?, "error" = ?, "interrupt" = ?, "attempt" = ?, "epoch" = ?, "lease_owner" = ?, "lease_ms" = ?, "started_at" = ?, "created_at" = ?, "updated_at" = ? WHERE "agent_turns"."conversation_id" = ? AND "agent_turns"."id" = ? RETURNING "conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at", "position";

COMMIT;
