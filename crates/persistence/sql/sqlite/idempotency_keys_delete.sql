DELETE FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."conversation_id" = ? AND "agent_idempotency_keys"."id" = ?;
