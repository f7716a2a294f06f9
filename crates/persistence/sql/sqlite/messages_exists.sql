SELECT 1 FROM "agent_messages" WHERE "agent_messages"."id" = ?;
