UPDATE agent_turns SET lease_renewed_at = statement_timestamp()
WHERE status = 'running' AND lease_owner = $1 RETURNING conversation_id;
