-- The keys with which rows are encrypted, where they are; each is encrypted with the master key, which is
-- not here. The greatest number encrypts.
CREATE TABLE agent_data_keys (
    number INTEGER PRIMARY KEY,
    wrapped BLOB NOT NULL,
    created_at REAL NOT NULL DEFAULT (unixepoch('now', 'subsec'))
) STRICT;
