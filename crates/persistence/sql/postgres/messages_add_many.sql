BEGIN;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6), ($7, $8, $9, $10, $11, $12);

COMMIT;
