-- A turn has a lease: an owner, until lease_ms after lease_renewed_at, or after its server was
-- renewed, by this database's clock; or until its server has died.
CREATE TABLE agent_turns (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    -- As of messages.
    position BIGSERIAL NOT NULL,
    user_message_id UUID NOT NULL,
    assistant_message_id UUID,
    status VARCHAR(20) NOT NULL,
    error TEXT,
    input JSON,
    interrupt JSON,
    attempt INTEGER NOT NULL DEFAULT 1,
    epoch BIGINT NOT NULL DEFAULT 0,
    lease_owner UUID,
    lease_ms BIGINT NOT NULL DEFAULT 0,
    lease_renewed_at TIMESTAMPTZ DEFAULT clock_timestamp(),
    started_at TIMESTAMPTZ,
    -- Its owner keeps its state by itself, see TurnLedger. Only that writes it.
    opened BOOLEAN NOT NULL DEFAULT false,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (id, conversation_id)
);

CREATE INDEX agent_turns_conversation_id_idx ON agent_turns (conversation_id, position);

-- A conversation has at most one running turn.
CREATE UNIQUE INDEX agent_turns_running_idx ON agent_turns (conversation_id)
WHERE status = 'running';

-- The turns that wait. One that runs through is never in it.
CREATE INDEX agent_turns_waiting_idx ON agent_turns (conversation_id, position)
WHERE status IN ('queued', 'waiting');

CREATE INDEX agent_turns_queued_idx ON agent_turns (position) WHERE status = 'queued';

-- Who owns turns: a run of a server. While it lives a session of it holds the advisory lock lock_key.
CREATE TABLE agent_servers (
    id UUID PRIMARY KEY,
    renewed_at TIMESTAMPTZ NOT NULL,
    lock_key BIGINT,
    -- In which run of the database the session lives, and how many sessions had been terminated then.
    database_started_at TIMESTAMPTZ,
    sessions_killed BIGINT,
    -- Since when nobody holds the lock.
    suspected_at TIMESTAMPTZ,
    has_died BOOLEAN NOT NULL DEFAULT FALSE
);

-- What one server at a time does for all.
CREATE TABLE agent_tasks (
    name TEXT COLLATE "C" PRIMARY KEY,
    owner UUID NOT NULL,
    leased_until TIMESTAMPTZ NOT NULL
);

-- What a request with an Idempotency-Key has led to, in its conversation; of one that makes a
-- conversation, for who sent it.
CREATE TABLE agent_idempotency_keys (
    conversation_id UUID NOT NULL,
    id UUID NOT NULL,
    fingerprint UUID NOT NULL,
    resource_id UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (conversation_id, id)
);

CREATE INDEX agent_idempotency_keys_created_at_idx ON agent_idempotency_keys (created_at);
