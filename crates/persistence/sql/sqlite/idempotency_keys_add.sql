INSERT INTO "agent_idempotency_keys" ("conversation_id", "id", "fingerprint", "resource_id") VALUES (?, ?, ?, ?);
