SELECT sequence, events::text FROM agent_turn_events
WHERE conversation_id = $1 AND turn_id = $2 AND sequence > $3 ORDER BY sequence LIMIT $4;
