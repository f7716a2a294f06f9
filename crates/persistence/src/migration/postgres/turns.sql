-- A turn has a lease: an owner, until lease_ms after lease_renewed_at, by this database's clock.
CREATE TABLE agent_turns (
    conversation_id UUID NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    -- As of messages.
    position BIGSERIAL NOT NULL,
    user_message_id UUID NOT NULL,
    assistant_message_id UUID,
    status VARCHAR(20) NOT NULL,
    error TEXT,
    interrupt JSON,
    attempt INTEGER NOT NULL DEFAULT 1,
    epoch BIGINT NOT NULL DEFAULT 0,
    lease_owner UUID,
    lease_ms BIGINT NOT NULL DEFAULT 0,
    lease_renewed_at TIMESTAMPTZ DEFAULT clock_timestamp(),
    started_at TIMESTAMPTZ,
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

-- What a request with an Idempotency-Key has led to, in its conversation; of one that makes a
-- conversation, for who sent it.
CREATE TABLE agent_idempotency_keys (
    conversation_id UUID NOT NULL,
    id UUID NOT NULL,
    fingerprint UUID NOT NULL,
    resource_id UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, conversation_id)
);

CREATE INDEX agent_idempotency_keys_created_at_idx ON agent_idempotency_keys (created_at);
