BEGIN;

SELECT "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."id" = $1 LIMIT $2 FOR NO KEY UPDATE;

UPDATE "agent_idempotency_keys" SET "fingerprint" = $1, "resource_id" = $2 WHERE "agent_idempotency_keys"."id" = $3 RETURNING "id", "fingerprint", "resource_id";

COMMIT;
