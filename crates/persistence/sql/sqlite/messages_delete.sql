DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ?;
