SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1;

BEGIN IMMEDIATE;

SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1;

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

SELECT c.id, c.number, c.title, NULL, c.owner FROM agent_conversations c
WHERE c.number > (SELECT numbered FROM agent_search_progress)
ORDER BY c.number LIMIT $1;

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2);

UPDATE agent_search_progress
SET reached = max(reached, $1), numbered = max(numbered, $2);

COMMIT;
