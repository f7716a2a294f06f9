UPDATE "agent_idempotency_keys" SET "fingerprint" = $1, "resource_id" = $2, "created_at" = $3 WHERE "agent_idempotency_keys"."id" = $4 RETURNING "id", "fingerprint", "resource_id", "created_at";
