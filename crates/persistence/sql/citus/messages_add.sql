INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6);
