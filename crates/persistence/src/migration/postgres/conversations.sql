-- The order in which things were said, whatever the clocks of servers say.
CREATE SEQUENCE agent_positions;

CREATE TABLE agent_conversations (
    id UUID PRIMARY KEY,
    checkpoint_thread_id UUID NOT NULL,
    owner VARCHAR(255),
    title VARCHAR(255),
    metadata_ JSON,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    -- Where the last message of a person stands, or it was made.
    position BIGINT NOT NULL DEFAULT nextval('agent_positions'),
    CONSTRAINT agent_conversations_checkpoint_thread_id_key UNIQUE (checkpoint_thread_id)
);

-- A page of the conversations, by their last activity; of one owner.
CREATE INDEX agent_conversations_position_idx ON agent_conversations (position);
CREATE INDEX agent_conversations_owner_idx ON agent_conversations (owner, position)
WHERE owner IS NOT NULL;

CREATE TABLE agent_messages (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    position BIGINT NOT NULL DEFAULT nextval('agent_positions'),
    role VARCHAR(50) NOT NULL,
    content TEXT NOT NULL,
    parts JSON,
    parent_id UUID,
    is_chosen BOOLEAN NOT NULL DEFAULT TRUE,
    checkpoint_id TEXT,
    metadata_ JSON,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (id, conversation_id)
);

-- A branch is read by it in order, however many others there are.
CREATE INDEX agent_messages_conversation_id_idx
ON agent_messages (conversation_id, is_chosen, position);

-- Long texts of parts, such as pictures, each once in its conversation.
CREATE TABLE agent_parts (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    hash TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (conversation_id, hash)
);

-- Once for what is added together: a row that its transaction changes again and again is found by
-- all that it was.
CREATE FUNCTION agent_conversation_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE agent_conversations c SET position = a.position
    FROM (
        SELECT conversation_id, max(position) AS position FROM added
        WHERE role <> 'assistant'
        GROUP BY conversation_id
    ) a
    WHERE c.id = a.conversation_id AND c.position < a.position;
    RETURN NULL;
END $$;

CREATE TRIGGER agent_messages_move_conversation AFTER INSERT ON agent_messages
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION agent_conversation_moves();
