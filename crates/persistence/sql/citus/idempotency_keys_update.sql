BEGIN;

SELECT "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id", "agent_idempotency_keys"."created_at" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."id" = $1 LIMIT $2 FOR NO KEY UPDATE;

UPDATE "agent_idempotency_keys" SET "fingerprint" = $1, "resource_id" = $2, "created_at" = $3 WHERE "agent_idempotency_keys"."id" = $4 RETURNING "id", "fingerprint", "resource_id", "created_at";

COMMIT;
