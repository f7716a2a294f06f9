CREATE TABLE agent_conversations (
    id UUID PRIMARY KEY,
    checkpoint_thread_id UUID NOT NULL,
    owner VARCHAR(255),
    title VARCHAR(255),
    metadata_ JSON,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT agent_conversations_checkpoint_thread_id_key UNIQUE (checkpoint_thread_id)
);

-- A page of the conversations of one owner, newest first.
CREATE INDEX agent_conversations_owner_idx ON agent_conversations (owner, id)
WHERE owner IS NOT NULL;

CREATE TABLE agent_messages (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    -- By which they are ordered: it grows with each row, whatever the clocks of servers say.
    position BIGSERIAL NOT NULL,
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
