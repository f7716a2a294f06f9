SELECT conversation_id FROM agent_turns WHERE status = 'running' AND lease_owner = $1;

INSERT INTO agent_servers (id, renewed_at) VALUES ($1, statement_timestamp())
ON CONFLICT (id) DO UPDATE SET renewed_at = EXCLUDED.renewed_at;
