UPDATE agent_turns SET epoch = epoch + 1,
    attempt = attempt + CASE WHEN lease_owner IS NULL THEN 0 ELSE 1 END,
    lease_owner = $4, lease_ms = $5, lease_renewed_at = statement_timestamp(), updated_at = $6
WHERE conversation_id = $1 AND id = (
    SELECT id FROM agent_turns WHERE conversation_id = $1 AND id = $2
        AND status = 'running' AND agent_turns.opened AND epoch = $3 AND (lease_owner = $4 OR (lease_owner IS NULL OR lease_renewed_at IS NULL
        OR GREATEST(lease_renewed_at, (
            SELECT s.renewed_at FROM agent_servers s WHERE s.id = lease_owner
        )) + lease_ms * INTERVAL '1 millisecond' <= statement_timestamp()
        OR EXISTS (SELECT FROM agent_servers s WHERE s.id = lease_owner AND s.has_died)))
    FOR UPDATE SKIP LOCKED
)
RETURNING attempt;
