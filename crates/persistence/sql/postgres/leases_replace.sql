UPDATE agent_turns SET assistant_message_id = $3, status = $4, error = $5,
    interrupt = $6, attempt = $7, epoch = $8, lease_owner = $9, lease_ms = $10, started_at = $11,
    updated_at = $12, input = $15, lease_renewed_at = statement_timestamp()
WHERE conversation_id = $1 AND id = $2 AND status = $13 AND epoch = $14;
