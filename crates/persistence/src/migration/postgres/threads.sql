CREATE TABLE threads (
    thread_id TEXT COLLATE "C" PRIMARY KEY,
    parent_id TEXT,
    updated_at TIMESTAMPTZ NOT NULL,
    -- The fencing token.
    epoch BIGINT NOT NULL DEFAULT 0,
    -- When checkpoints that are not kept were last looked for.
    pruned_at TIMESTAMPTZ
);

-- The threads that LangGraph's saver has written so far, by the time of their last checkpoint.
INSERT INTO threads (thread_id, updated_at)
SELECT
    thread_id,
    COALESCE(
        MAX(
            CASE
                WHEN checkpoint ->> 'ts' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)$'
                THEN (checkpoint ->> 'ts')::timestamptz
            END
        ),
        now()
    )
FROM checkpoints
GROUP BY thread_id;

CREATE INDEX threads_updated_at_idx ON threads (updated_at, thread_id);
