-- The events of turns, for those who watch them: a row for what was stored together.
CREATE TABLE agent_turn_events (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    turn_id UUID NOT NULL,
    sequence BIGINT NOT NULL,
    events JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (conversation_id, turn_id, sequence)
);

CREATE INDEX agent_turn_events_created_at_idx ON agent_turn_events (created_at);
