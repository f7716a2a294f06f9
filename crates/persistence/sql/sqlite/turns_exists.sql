SELECT 1 FROM "agent_turns" WHERE "agent_turns"."conversation_id" = ? AND "agent_turns"."id" = ?;
