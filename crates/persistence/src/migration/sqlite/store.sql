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

-- Numbers of 32 bits, the least significant byte first.
CREATE TABLE store_vectors (
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    field_name TEXT NOT NULL,
    embedding BLOB NOT NULL,
    PRIMARY KEY (prefix, key, field_name),
    FOREIGN KEY (prefix, key) REFERENCES store (prefix, key) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
