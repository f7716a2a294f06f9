BEGIN;

DELETE FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2;

SELECT FROM agent_conversations WHERE id = $1 FOR UPDATE;

DELETE FROM agent_parts p WHERE p.conversation_id = $1 AND NOT EXISTS (
    SELECT FROM agent_messages WHERE conversation_id = $1 AND strpos(parts::text, p.hash) > 0
);

COMMIT;
