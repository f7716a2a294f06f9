DELETE FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."id" = $1;
