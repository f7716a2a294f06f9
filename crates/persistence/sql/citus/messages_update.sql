BEGIN;

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_messages" SET "role" = $1, "content" = $2, "metadata_" = $3, "created_at" = $4 WHERE "agent_messages"."conversation_id" = $5 AND "agent_messages"."id" = $6 RETURNING "conversation_id", "id", "role", "content", "metadata_", "created_at", "position";

COMMIT;
