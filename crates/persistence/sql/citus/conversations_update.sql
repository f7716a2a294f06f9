BEGIN;

SELECT "agent_conversations"."id", "agent_conversations"."checkpoint_thread_id", "agent_conversations"."owner", "agent_conversations"."title", "agent_conversations"."metadata_", "agent_conversations"."created_at", "agent_conversations"."updated_at", "agent_conversations"."position" FROM "agent_conversations" WHERE "agent_conversations"."id" = $1 LIMIT $2 FOR NO KEY UPDATE;

UPDATE "agent_conversations" SET "checkpoint_thread_id" = $1, "owner" = $2, "title" = $3, "metadata_" = $4, "created_at" = $5, "updated_at" = $6 WHERE "agent_conversations"."id" = $7 RETURNING "id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at", "position";

COMMIT;
