CREATE TABLE agent_conversations (
    id UUID PRIMARY KEY,
    checkpoint_thread_id UUID NOT NULL,
    title VARCHAR(255),
    metadata_ JSON,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT agent_conversations_checkpoint_thread_id_key UNIQUE (checkpoint_thread_id)
);

CREATE TABLE agent_messages (
    id UUID PRIMARY KEY,
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    role VARCHAR(50) NOT NULL,
    content TEXT NOT NULL,
    metadata_ JSON,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX agent_messages_conversation_id_idx ON agent_messages (conversation_id, id);

CREATE TABLE agent_turns (
    id UUID PRIMARY KEY,
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    user_message_id UUID NOT NULL,
    status VARCHAR(20) NOT NULL,
    error TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX agent_turns_conversation_id_idx ON agent_turns (conversation_id, id);

-- A conversation has at most one running turn.
CREATE UNIQUE INDEX agent_turns_running_idx ON agent_turns (conversation_id)
WHERE status = 'running';
