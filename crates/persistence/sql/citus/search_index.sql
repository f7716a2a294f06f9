BEGIN;

SELECT p.reached, p.settled, p.mark, (SELECT last_value FROM agent_positions),
    p.mark_xid <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        AND p.marked_at < statement_timestamp() - interval '10 s'
FROM agent_search_progress p FOR UPDATE SKIP LOCKED;

SELECT m.conversation_id, m.id, m.position, left(m.content, $3), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > $1 AND m.position <= $2 AND NOT EXISTS (
    SELECT FROM agent_search s
    WHERE s.conversation_id = m.conversation_id AND s.position = m.position
);

SELECT c.id, -c.position, c.title, c.metadata_, c.owner
FROM agent_conversations c
WHERE c.position > $1 AND c.position <= $2
    AND (c.title IS NOT NULL OR c.metadata_ IS NOT NULL) AND NOT EXISTS (
        SELECT FROM agent_search s
        WHERE s.conversation_id = c.id AND s.position = -c.position
    );

DELETE FROM agent_search s
USING unnest($1::uuid[], $2::bigint[]) n (conversation_id, position)
WHERE s.conversation_id = n.conversation_id AND s.position < 0 AND s.position > n.position;

INSERT INTO agent_search (conversation_id, position, message_id, keys)
SELECT n.conversation_id, n.position, n.message_id, n.keys::bigint[]
FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[])
    n (conversation_id, position, message_id, keys)
ON CONFLICT DO NOTHING;

UPDATE agent_search_progress SET reached = $1;

SELECT m.conversation_id, m.id, m.position, left(m.content, $3), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > $1 AND m.position <= $2 AND NOT EXISTS (
    SELECT FROM agent_search s
    WHERE s.conversation_id = m.conversation_id AND s.position = m.position
);

SELECT c.id, -c.position, c.title, c.metadata_, c.owner
FROM agent_conversations c
WHERE c.position > $1 AND c.position <= $2
    AND (c.title IS NOT NULL OR c.metadata_ IS NOT NULL) AND NOT EXISTS (
        SELECT FROM agent_search s
        WHERE s.conversation_id = c.id AND s.position = -c.position
    );

UPDATE agent_search_progress SET settled = mark, mark = reached,
    mark_xid = pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    marked_at = statement_timestamp();

COMMIT;
