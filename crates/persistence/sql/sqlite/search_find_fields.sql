SELECT c.id, NULL, c.position, c.title, c.metadata_ FROM agent_conversations c
WHERE c.position > $1 AND c.position < $2 AND c.owner = $3
ORDER BY c.position DESC LIMIT $4;
