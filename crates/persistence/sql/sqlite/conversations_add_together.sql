INSERT INTO "agent_conversations" ("id", "checkpoint_thread_id", "owner", "title", "metadata_", "created_at", "updated_at") VALUES (?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?);
