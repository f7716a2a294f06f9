-- A turn has a lease: an owner, until lease_ms after lease_renewed_at, or after its server was
-- renewed, in seconds since 1970 by SQLite's clock; or until its server has died.
CREATE TABLE agent_turns (
    -- As of messages.
    position INTEGER PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id BLOB NOT NULL,
    user_message_id BLOB NOT NULL,
    assistant_message_id BLOB,
    status TEXT NOT NULL,
    error TEXT,
    input TEXT,
    interrupt TEXT,
    attempt INTEGER NOT NULL DEFAULT 1,
    epoch INTEGER NOT NULL DEFAULT 0,
    lease_owner BLOB,
    lease_ms INTEGER NOT NULL DEFAULT 0,
    lease_renewed_at REAL DEFAULT (unixepoch('now', 'subsec')),
    started_at TEXT,
    -- Its owner keeps its state by itself, see TurnLedger. Only that writes it.
    opened INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (id, conversation_id)
) STRICT;

CREATE INDEX agent_turns_conversation_id_idx ON agent_turns (conversation_id, position);

-- A conversation has at most one running turn.
CREATE UNIQUE INDEX agent_turns_running_idx ON agent_turns (conversation_id)
WHERE status = 'running';

-- The turns that wait. One that runs through is never in it.
CREATE INDEX agent_turns_waiting_idx ON agent_turns (conversation_id, position)
WHERE status IN ('queued', 'waiting');

CREATE INDEX agent_turns_queued_idx ON agent_turns (position) WHERE status = 'queued';

-- Who owns turns: a run of a server. While it lives it holds a file beside the database locked.
CREATE TABLE agent_servers (
    id BLOB NOT NULL PRIMARY KEY,
    renewed_at REAL NOT NULL,
    has_died INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What one server at a time does for all, until seconds since 1970.
CREATE TABLE agent_tasks (
    name TEXT NOT NULL PRIMARY KEY,
    owner BLOB NOT NULL,
    leased_until REAL NOT NULL
) STRICT;

-- What a request with an Idempotency-Key has led to, in its conversation; of one that makes a
-- conversation, for who sent it.
CREATE TABLE agent_idempotency_keys (
    conversation_id BLOB NOT NULL,
    id BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    resource_id BLOB NOT NULL,
    created_at REAL NOT NULL DEFAULT (unixepoch('now', 'subsec')),
    PRIMARY KEY (conversation_id, id)
) STRICT;

CREATE INDEX agent_idempotency_keys_created_at_idx ON agent_idempotency_keys (created_at);
