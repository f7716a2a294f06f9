DELETE FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."created_at" <= ?;
