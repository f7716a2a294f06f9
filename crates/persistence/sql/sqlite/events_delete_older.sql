DELETE FROM agent_turn_events AS e
WHERE e.created_at < $1 AND e.rowid < COALESCE((
    SELECT rowid FROM agent_turn_events WHERE created_at >= $1 ORDER BY rowid LIMIT 1
), 9223372036854775807) AND NOT EXISTS (
    SELECT 1 FROM agent_turns t WHERE t.id = e.turn_id AND t.conversation_id = e.conversation_id
        AND t.status NOT IN ('completed', 'failed', 'cancelled')
);
