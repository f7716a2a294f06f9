BEGIN;

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_messages" SET "role" = $1, "content" = $2, "parts" = $3, "parent_id" = $4, "is_chosen" = $5, "checkpoint_id" = $6, "metadata_" = $7, "created_at" = $8 WHERE "agent_messages"."conversation_id" = $9 AND "agent_messages"."id" = $10 RETURNING "conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at", "position";

COMMIT;
