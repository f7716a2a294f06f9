SELECT 1 FROM "agent_api_keys" WHERE "agent_api_keys"."id" = $1;
