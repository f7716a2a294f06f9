INSERT INTO "agent_messages" ("id", "conversation_id", "role", "content", "metadata_", "created_at") VALUES (?, ?, ?, ?, ?, ?);
