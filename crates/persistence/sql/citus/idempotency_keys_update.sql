BEGIN;

SELECT "agent_idempotency_keys"."conversation_id", "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."conversation_id" = $1 AND "agent_idempotency_keys"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_idempotency_keys" SET "fingerprint" = $1, "resource_id" = $2 WHERE "agent_idempotency_keys"."conversation_id" = $3 AND "agent_idempotency_keys"."id" = $4 RETURNING "conversation_id", "id", "fingerprint", "resource_id";

COMMIT;
