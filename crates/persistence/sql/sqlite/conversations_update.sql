BEGIN IMMEDIATE;

SELECT "agent_conversations"."id", "agent_conversations"."checkpoint_thread_id", "agent_conversations"."owner", "agent_conversations"."title", "agent_conversations"."metadata_", "agent_conversations"."created_at", "agent_conversations"."updated_at", "agent_conversations"."position" FROM "agent_conversations" WHERE "agent_conversations"."id" = ? LIMIT ?;

UPDATE "agent_conversations" SET "checkpoint_thread_id" = ?, "owner" = ?, "title" = ?, "metadata_" = ?, "created_at" = ?, "updated_at" = ? WHERE "agent_conversations"."id" = ? RETURNING "id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at", "position";

COMMIT;
