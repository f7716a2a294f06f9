SELECT e.turn_id, max(e.sequence)
FROM jsonb_to_recordset($1::jsonb) AS t (conversation_id uuid, turn_id uuid)
JOIN agent_turn_events e ON e.conversation_id = t.conversation_id AND e.turn_id = t.turn_id
GROUP BY e.turn_id;
