SELECT m.conversation_id, m.id, m.position
FROM agent_search s CROSS JOIN agent_messages m ON m.position = s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid < $2
    AND ($3 IS NULL OR (
        SELECT c.owner FROM agent_conversations c WHERE c.id = m.conversation_id
    ) = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(m.conversation_id))
            AND n.rowid > s.rowid
    )
ORDER BY s.rowid DESC LIMIT $4;
