-- UUIDs as 16 bytes, whose order is the order of time; times and JSON as text.
CREATE TABLE agent_conversations (
    id BLOB NOT NULL PRIMARY KEY,
    checkpoint_thread_id BLOB NOT NULL UNIQUE,
    owner TEXT,
    title TEXT,
    metadata_ TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

-- A page of the conversations of one owner, newest first.
CREATE INDEX agent_conversations_owner_idx ON agent_conversations (owner, id)
WHERE owner IS NOT NULL;

CREATE TABLE agent_messages (
    -- By which they are ordered: it grows with each row, whatever the clocks of servers say.
    position INTEGER PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id BLOB NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    parts TEXT,
    parent_id BLOB,
    is_chosen INTEGER NOT NULL DEFAULT 1,
    checkpoint_id TEXT,
    metadata_ TEXT,
    created_at TEXT NOT NULL,
    UNIQUE (id, conversation_id)
) STRICT;

-- A branch is read by it in order, however many others there are.
CREATE INDEX agent_messages_conversation_id_idx
ON agent_messages (conversation_id, is_chosen, position);
