DELETE FROM "agent_conversations" WHERE "agent_conversations"."id" = $1;
