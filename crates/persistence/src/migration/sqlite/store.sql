-- The same columns as on PostgreSQL; JSON as text, times in microseconds.
CREATE TABLE store (
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)),
    updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)),
    expires_at INTEGER,
    ttl_minutes REAL,
    PRIMARY KEY (prefix, key)
) STRICT;

CREATE INDEX idx_store_expires_at ON store (expires_at) WHERE expires_at IS NOT NULL;
