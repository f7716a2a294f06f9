BEGIN IMMEDIATE;

SELECT "agent_idempotency_keys"."conversation_id", "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."conversation_id" = ? AND "agent_idempotency_keys"."id" = ? LIMIT ?;

UPDATE "agent_idempotency_keys" SET "fingerprint" = ?, "resource_id" = ? WHERE "agent_idempotency_keys"."conversation_id" = ? AND "agent_idempotency_keys"."id" = ? RETURNING "conversation_id", "id", "fingerprint", "resource_id";

COMMIT;
