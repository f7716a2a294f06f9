DELETE FROM agent_servers AS s
WHERE s.has_died AND NOT EXISTS (
    SELECT 1 FROM agent_turns t WHERE t.status = 'running' AND t.lease_owner = s.id
);

DELETE FROM agent_idempotency_keys
WHERE created_at <= unixepoch('now', 'subsec') - $1;
