DELETE FROM agent_turn_events e
WHERE e.created_at < now() - make_interval(secs => $1) AND NOT EXISTS (
    SELECT FROM agent_turns t WHERE t.id = e.turn_id AND t.conversation_id = e.conversation_id
        AND t.status NOT IN ('completed', 'failed', 'cancelled')
);
