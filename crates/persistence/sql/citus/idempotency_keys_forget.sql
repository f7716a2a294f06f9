DELETE FROM agent_idempotency_keys
WHERE created_at <= clock_timestamp() - make_interval(secs => $1);
