BEGIN;

INSERT INTO "agent_idempotency_keys" ("id", "fingerprint", "resource_id") VALUES ($1, $2, $3), ($4, $5, $6);

COMMIT;
