UPDATE "agent_idempotency_keys" SET "fingerprint" = ?, "resource_id" = ?, "created_at" = ? WHERE "agent_idempotency_keys"."id" = ? RETURNING "id", "fingerprint", "resource_id", "created_at";
