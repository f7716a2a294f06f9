-- UUIDs as 16 bytes, whose order is the order of time; times and JSON as text.
CREATE TABLE agent_conversations (
    id BLOB NOT NULL UNIQUE,
    checkpoint_thread_id BLOB NOT NULL UNIQUE,
    owner TEXT,
    title TEXT,
    metadata_ TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- Where the last message of a person stands, times 2^20, or it was made, behind what was said till then.
    position INTEGER NOT NULL DEFAULT 0,
    -- By which it is in the index of words.
    number INTEGER PRIMARY KEY
) STRICT;

-- A page of the conversations, by their last activity; of one owner.
CREATE INDEX agent_conversations_position_idx ON agent_conversations (position);
CREATE INDEX agent_conversations_owner_idx ON agent_conversations (owner, position)
WHERE owner IS NOT NULL;

CREATE TRIGGER agent_conversations_place AFTER INSERT ON agent_conversations BEGIN
    UPDATE agent_conversations
    SET position = 1 + max(
        (SELECT max(position) FROM agent_conversations),
        COALESCE((SELECT max(position) FROM agent_messages), 0) << 20
    )
    WHERE id = NEW.id;
END;

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

-- Long texts of parts, such as pictures, each once in its conversation.
CREATE TABLE agent_parts (
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    hash TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (conversation_id, hash)
) STRICT;

CREATE TRIGGER agent_messages_move_conversation AFTER INSERT ON agent_messages
WHEN NEW.role <> 'assistant' BEGIN
    UPDATE agent_conversations
    SET position = max(NEW.position << 20, 1 + (SELECT max(position) FROM agent_conversations))
    WHERE id = NEW.conversation_id AND position < NEW.position << 20;
END;
