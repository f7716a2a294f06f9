BEGIN IMMEDIATE;

DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ?;

SELECT 1 FROM agent_conversations WHERE id = $1;

DELETE FROM agent_parts AS p WHERE p.conversation_id = $1 AND NOT EXISTS (
    SELECT 1 FROM agent_messages WHERE conversation_id = $1 AND instr(parts, p.hash) > 0
);

COMMIT;
