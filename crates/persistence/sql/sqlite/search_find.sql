SELECT m.conversation_id, m.id, m.position << 20
FROM agent_search s CROSS JOIN agent_messages m ON m.position = s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid > 0 AND s.rowid <= ($2 - 1) >> 20
    AND ($3 IS NULL OR (
        SELECT c.owner FROM agent_conversations c WHERE c.id = m.conversation_id
    ) = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(m.conversation_id))
            AND n.rowid > s.rowid
    )
    AND NOT EXISTS (
        SELECT 1 FROM agent_conversations c CROSS JOIN agent_search t ON t.rowid = -c.number
        WHERE c.id = m.conversation_id AND c.position > m.position << 20
            AND t.agent_search MATCH $1
    )
ORDER BY s.rowid DESC LIMIT $4;

SELECT c.id, NULL, c.position
FROM agent_search s CROSS JOIN agent_conversations c ON c.number = -s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid < 0 AND c.position < $2
    AND ($3 IS NULL OR c.owner = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(c.id))
            AND n.rowid >= (c.position + (1 << 20) - 1) >> 20
    )
ORDER BY c.position DESC LIMIT $4;
