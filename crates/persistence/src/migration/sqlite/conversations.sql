-- UUIDs as 16 bytes, whose order is the order of time; times and JSON as text.
CREATE TABLE agent_conversations (
    id BLOB NOT NULL PRIMARY KEY,
    checkpoint_thread_id BLOB NOT NULL UNIQUE,
    title TEXT,
    metadata_ TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE agent_messages (
    id BLOB NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata_ TEXT,
    created_at TEXT NOT NULL
) STRICT;

CREATE INDEX agent_messages_conversation_id_idx ON agent_messages (conversation_id, id);

CREATE TABLE agent_turns (
    id BLOB NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    user_message_id BLOB NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX agent_turns_conversation_id_idx ON agent_turns (conversation_id, id);

-- A conversation has at most one running turn.
CREATE UNIQUE INDEX agent_turns_running_idx ON agent_turns (conversation_id)
WHERE status = 'running';
