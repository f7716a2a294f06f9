INSERT INTO agent_servers (id, renewed_at)
VALUES ($1, unixepoch('now', 'subsec')) ON CONFLICT (id) DO UPDATE SET has_died = 0;

SELECT conversation_id FROM agent_turns WHERE status = 'running' AND lease_owner = $1;

INSERT INTO agent_servers (id, renewed_at) VALUES ($1, unixepoch('now', 'subsec'))
ON CONFLICT (id) DO UPDATE SET renewed_at = EXCLUDED.renewed_at;
