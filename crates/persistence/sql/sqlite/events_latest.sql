SELECT e.turn_id, max(e.sequence)
FROM json_each($1) t CROSS JOIN agent_turn_events e
    ON e.conversation_id = unhex(t.value ->> 'conversation_id', '-')
    AND e.turn_id = unhex(t.value ->> 'turn_id', '-')
GROUP BY e.turn_id;
