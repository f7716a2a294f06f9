INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "metadata_", "created_at") VALUES (?, ?, ?, ?, ?, ?);
