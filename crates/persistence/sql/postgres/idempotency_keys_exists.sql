SELECT 1 FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."conversation_id" = $1 AND "agent_idempotency_keys"."id" = $2;
