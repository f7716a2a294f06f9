BEGIN IMMEDIATE;

SELECT "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."id" = ? LIMIT ?;

UPDATE "agent_idempotency_keys" SET "fingerprint" = ?, "resource_id" = ? WHERE "agent_idempotency_keys"."id" = ? RETURNING "id", "fingerprint", "resource_id";

COMMIT;
