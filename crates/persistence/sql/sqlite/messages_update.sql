BEGIN IMMEDIATE;

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ? LIMIT ?;

UPDATE "agent_messages" SET "role" = ?, "content" = ?, "parts" = ?, "parent_id" = ?, "is_chosen" = ?, "checkpoint_id" = ?, "metadata_" = ?, "created_at" = ? WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ? RETURNING "conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at", "position";

COMMIT;
