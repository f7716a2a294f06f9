DELETE FROM "agent_messages" WHERE "agent_messages"."id" = $1;
