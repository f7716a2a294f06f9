SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1;

BEGIN IMMEDIATE;

SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1;

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT INTO agent_search (rowid, words) VALUES ($1, $2);

UPDATE agent_search_progress SET reached = $1;

COMMIT;
