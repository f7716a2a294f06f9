DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2;
