-- The fencing token of a thread. The default is not written to the rows that are there.
ALTER TABLE threads ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;

-- Turns get a lease: an owner, until lease_ms after lease_renewed_at, by this database's clock.
-- A turn that was running before has none, so that anybody may take it.
ALTER TABLE agent_turns
    ADD COLUMN assistant_message_id UUID,
    ADD COLUMN interrupt JSON,
    ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lease_owner UUID,
    ADD COLUMN lease_ms BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lease_renewed_at TIMESTAMPTZ,
    ADD COLUMN started_at TIMESTAMPTZ;

ALTER TABLE agent_turns ALTER COLUMN lease_renewed_at SET DEFAULT clock_timestamp();

UPDATE agent_turns SET assistant_message_id = (
    SELECT m.id FROM agent_messages m
    WHERE m.conversation_id = agent_turns.conversation_id AND m.role = 'assistant'
        AND m.id > agent_turns.user_message_id
    ORDER BY m.id LIMIT 1
)
WHERE status = 'completed';

-- The turns that wait. One that runs through is never in it.
CREATE INDEX agent_turns_waiting_idx ON agent_turns (conversation_id, id)
WHERE status IN ('queued', 'interrupted');

-- What a request with an Idempotency-Key has led to.
CREATE TABLE agent_idempotency_keys (
    id UUID PRIMARY KEY,
    fingerprint UUID NOT NULL,
    resource_id UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX agent_idempotency_keys_created_at_idx ON agent_idempotency_keys (created_at);
