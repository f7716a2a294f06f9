SELECT type, blob, name FROM agent_turn_records
WHERE conversation_id = $1 AND turn_id = $2 ORDER BY name;
