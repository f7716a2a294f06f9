BEGIN IMMEDIATE;

INSERT INTO "agent_idempotency_keys" ("id", "fingerprint", "resource_id") VALUES (?, ?, ?), (?, ?, ?);

COMMIT;
