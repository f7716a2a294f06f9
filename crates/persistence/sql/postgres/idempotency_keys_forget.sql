DELETE FROM agent_servers s
WHERE (s.has_died OR s.lock_key IS NULL AND s.renewed_at < statement_timestamp() - INTERVAL '1 day')
    AND NOT EXISTS (
        SELECT FROM agent_turns t WHERE t.status = 'running' AND t.lease_owner = s.id
    );

DELETE FROM agent_idempotency_keys
WHERE created_at <= clock_timestamp() - make_interval(secs => $1);
