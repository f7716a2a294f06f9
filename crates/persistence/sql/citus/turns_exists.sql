SELECT 1 FROM "agent_turns" WHERE "agent_turns"."conversation_id" = $1 AND "agent_turns"."id" = $2;
