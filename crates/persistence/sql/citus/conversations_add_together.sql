INSERT INTO "agent_conversations" ("id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at") VALUES ($1, $2, $3, $4, $5, $6, $7), ($8, $9, $10, $11, $12, $13, $14);
