INSERT INTO "agent_idempotency_keys" ("id", "fingerprint", "resource_id", "created_at") VALUES ($1, $2, $3, $4);
