INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4::json, now());
