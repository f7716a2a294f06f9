-- The events of turns, for those who watch them: a row for what was stored together.
CREATE TABLE agent_turn_events (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    turn_id UUID NOT NULL,
    sequence BIGINT NOT NULL,
    events JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (conversation_id, turn_id, sequence)
);

-- Rows come in the order of time: an entry for many pages is enough to find the old ones.
CREATE INDEX agent_turn_events_created_at_idx ON agent_turn_events USING brin (created_at);
