-- The keys with which rows are encrypted, where they are; each is encrypted with the master key, which is
-- not here. The greatest number encrypts.
CREATE TABLE agent_data_keys (
    number BIGINT PRIMARY KEY,
    wrapped BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
