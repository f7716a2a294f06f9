-- The words of messages, as hashes, each with the block of positions of its message. The words of a
-- conversation's title and the fields of its metadata stand at minus its place.
CREATE TABLE agent_search (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    message_id UUID,
    keys BIGINT[] NOT NULL,
    PRIMARY KEY (conversation_id, position)
);

CREATE INDEX agent_search_keys_idx ON agent_search USING gin (keys) WITH (fastupdate = off);

-- Messages are taken in by their positions; the index is written once in many messages.
CREATE INDEX agent_messages_position_idx ON agent_messages
USING brin (position) WITH (pages_per_range = 16, autosummarize = on);

-- How far.
CREATE TABLE agent_search_progress (
    reached BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    mark BIGINT NOT NULL,
    mark_xid BIGINT NOT NULL,
    marked_at TIMESTAMPTZ NOT NULL
);

INSERT INTO agent_search_progress VALUES (0, 0, 0, 0, statement_timestamp());
