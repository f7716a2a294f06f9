-- Who may call a server. The digest is SHA-256 of the whole key, which nobody keeps.
CREATE TABLE agent_api_keys (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    scope TEXT NOT NULL,
    owner TEXT,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT
) STRICT;
