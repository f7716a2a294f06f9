SELECT 1 FROM "agent_turns" WHERE "agent_turns"."id" = $1;
