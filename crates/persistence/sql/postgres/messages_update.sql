BEGIN;

SELECT "agent_messages"."id", "agent_messages"."conversation_id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."id" = $1 LIMIT $2 FOR NO KEY UPDATE;

UPDATE "agent_messages" SET "conversation_id" = $1, "role" = $2, "content" = $3, "metadata_" = $4, "created_at" = $5 WHERE "agent_messages"."id" = $6 RETURNING "id", "conversation_id", "role", "content", "metadata_", "created_at", "position";

COMMIT;
