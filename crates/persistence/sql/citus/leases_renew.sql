UPDATE agent_turns SET lease_renewed_at = clock_timestamp()
WHERE status = 'running' AND lease_owner = $1 RETURNING conversation_id;
