-- What turns have recorded, each under its name: what they were given, effects that they have on the
-- world (without a type while one is under way), what they have come to.
CREATE TABLE agent_turn_records (
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    turn_id BLOB NOT NULL,
    name TEXT NOT NULL,
    type TEXT,
    blob BLOB,
    created_at REAL NOT NULL DEFAULT (unixepoch('now', 'subsec')),
    PRIMARY KEY (conversation_id, turn_id, name)
) STRICT;
