-- The events of turns, for those who watch them: a row for what was stored together.
CREATE TABLE agent_turn_events (
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    turn_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    events TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (conversation_id, turn_id, sequence)
) STRICT;
