-- Who may call a server. The digest is SHA-256 of the whole key, which nobody keeps.
CREATE TABLE agent_api_keys (
    id UUID PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    digest BYTEA NOT NULL,
    scope VARCHAR(20) NOT NULL,
    owner VARCHAR(255),
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ
);
