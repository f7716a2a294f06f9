DELETE FROM agent_idempotency_keys
WHERE created_at <= unixepoch('now', 'subsec') - $1;
