DELETE FROM agent_audit
WHERE at < statement_timestamp() - make_interval(secs => $1);
