WITH RECURSIVE chain AS (
    SELECT 0 AS depth, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, $4::jsonb AS open
    FROM checkpoints c
    WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 AND c.checkpoint_id = (
        SELECT parent_checkpoint_id FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = COALESCE($3, (
            SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2
            ORDER BY checkpoint_id DESC LIMIT 1
        ))
    )
    UNION ALL
    SELECT chain.depth + 1, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, rest.open
    FROM chain
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(o.channel) AS open
        FROM jsonb_array_elements_text(chain.open) o(channel)
        WHERE NOT COALESCE(chain.checkpoint -> 'channel_values' ? o.channel, false)
            AND NOT EXISTS (
                SELECT FROM checkpoint_blobs b
                WHERE b.thread_id = $1 AND b.checkpoint_ns = $2 AND b.channel = o.channel
                    AND b.version = chain.checkpoint -> 'channel_versions' ->> o.channel
                    AND b.type <> 'empty'
                OFFSET 0
            )
    ) rest
    CROSS JOIN LATERAL (
        SELECT * FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = chain.parent_checkpoint_id
        OFFSET 0
    ) c
    WHERE rest.open IS NOT NULL AND c.checkpoint_id <> chain.checkpoint_id
)
SELECT 0, chain.depth, w.channel, w.type, w.blob, w.task_id, w.task_path, w.idx,
    chain.checkpoint_id
FROM chain CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = chain.checkpoint_id
    OFFSET 0
) w
WHERE chain.open ? w.channel
UNION ALL
SELECT 1, chain.depth, o.channel, b.type, b.blob, NULL, NULL, NULL, b.version
FROM chain CROSS JOIN LATERAL jsonb_array_elements_text(chain.open) o(channel)
CROSS JOIN LATERAL (
    SELECT type, blob, version FROM checkpoint_blobs
    WHERE thread_id = $1 AND checkpoint_ns = $2 AND channel = o.channel
        AND version = chain.checkpoint -> 'channel_versions' ->> o.channel
    OFFSET 0
) b
UNION ALL
SELECT 2, chain.depth, o.channel, (chain.checkpoint -> 'channel_values')::text, NULL,
    NULL, NULL, NULL, chain.checkpoint_id
FROM chain CROSS JOIN LATERAL jsonb_array_elements_text(chain.open) o(channel)
WHERE chain.checkpoint -> 'channel_values' ? o.channel;
