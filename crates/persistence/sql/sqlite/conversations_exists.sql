SELECT 1 FROM "agent_conversations" WHERE "agent_conversations"."id" = ?;
