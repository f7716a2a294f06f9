UPDATE agent_turns SET epoch = epoch + 1,
    attempt = attempt + CASE WHEN lease_owner IS NULL THEN 0 ELSE 1 END,
    lease_owner = $4, lease_ms = $5, lease_renewed_at = unixepoch('now', 'subsec'), updated_at = $6
WHERE conversation_id = $1 AND id = (
    SELECT id FROM agent_turns WHERE conversation_id = $1 AND id = $2
        AND status = 'running' AND NOT agent_turns.opened AND epoch = $3 AND (lease_owner = $4 OR (lease_owner IS NULL OR lease_renewed_at IS NULL
        OR max(lease_renewed_at, COALESCE((
            SELECT s.renewed_at FROM agent_servers s WHERE s.id = lease_owner
        ), 0)) + lease_ms / 1000.0 <= unixepoch('now', 'subsec')
        OR EXISTS (SELECT 1 FROM agent_servers s WHERE s.id = lease_owner AND s.has_died)))
    
)
RETURNING attempt;
