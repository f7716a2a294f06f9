SELECT "agent_idempotency_keys"."id", "agent_idempotency_keys"."fingerprint", "agent_idempotency_keys"."resource_id" FROM "agent_idempotency_keys" WHERE "agent_idempotency_keys"."id" IN (?);
