-- updated_at: RFC 3339 in UTC, always with six digits, so that text order is time order.
CREATE TABLE threads (
    thread_id TEXT NOT NULL PRIMARY KEY,
    parent_id TEXT,
    updated_at TEXT NOT NULL,
    -- The fencing token.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- When checkpoints that are not kept were last looked for, in seconds since 1970.
    pruned_at REAL
) STRICT;

CREATE INDEX threads_updated_at_idx ON threads (updated_at, thread_id);
