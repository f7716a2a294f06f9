-- The fencing token of a thread.
ALTER TABLE threads ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- Turns get a lease: an owner, until lease_ms after lease_renewed_at, in seconds since 1970 by
-- SQLite's clock. A turn that was running before has none, so that anybody may take it. A new table,
-- since SQLite adds no column whose default is an expression.
ALTER TABLE agent_turns RENAME TO agent_turns_before;

CREATE TABLE agent_turns (
    id BLOB NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    user_message_id BLOB NOT NULL,
    assistant_message_id BLOB,
    status TEXT NOT NULL,
    error TEXT,
    interrupt TEXT,
    attempt INTEGER NOT NULL DEFAULT 1,
    epoch INTEGER NOT NULL DEFAULT 0,
    lease_owner BLOB,
    lease_ms INTEGER NOT NULL DEFAULT 0,
    lease_renewed_at REAL DEFAULT (unixepoch('now', 'subsec')),
    started_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

INSERT INTO agent_turns (id, conversation_id, user_message_id, assistant_message_id, status, error,
    lease_renewed_at, created_at, updated_at)
SELECT id, conversation_id, user_message_id, CASE WHEN status = 'completed' THEN (
        SELECT m.id FROM agent_messages m
        WHERE m.conversation_id = t.conversation_id AND m.role = 'assistant'
            AND m.id > t.user_message_id
        ORDER BY m.id LIMIT 1
    ) END, status, error, NULL, created_at, updated_at
FROM agent_turns_before t;

DROP TABLE agent_turns_before;

CREATE INDEX agent_turns_conversation_id_idx ON agent_turns (conversation_id, id);

-- A conversation has at most one running turn.
CREATE UNIQUE INDEX agent_turns_running_idx ON agent_turns (conversation_id)
WHERE status = 'running';

-- The turns that wait. One that runs through is never in it.
CREATE INDEX agent_turns_waiting_idx ON agent_turns (conversation_id, id)
WHERE status IN ('queued', 'interrupted');

-- What a request with an Idempotency-Key has led to.
CREATE TABLE agent_idempotency_keys (
    id BLOB NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    resource_id BLOB NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE INDEX agent_idempotency_keys_created_at_idx ON agent_idempotency_keys (created_at);
