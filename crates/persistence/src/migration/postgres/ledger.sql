-- What turns have recorded, each under its name: what they were given, effects that they have on the
-- world (without a type while one is under way), what they have come to.
CREATE TABLE agent_turn_records (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    turn_id UUID NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    type TEXT,
    blob BYTEA,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (conversation_id, turn_id, name)
);
