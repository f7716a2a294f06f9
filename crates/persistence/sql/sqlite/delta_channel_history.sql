WITH RECURSIVE chain AS (
    SELECT 0 AS depth, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, $4 AS open
    FROM checkpoints c
    WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 AND c.checkpoint_id = (
        SELECT parent_checkpoint_id FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = COALESCE($3, (
            SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2
            ORDER BY checkpoint_id DESC LIMIT 1
        ))
    )
    UNION ALL
    SELECT chain.depth + 1, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, (
        SELECT json_group_array(o.value) FROM json_each(chain.open) o
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(chain.checkpoint, '$.channel_values') v
            WHERE CASE typeof(v.key) WHEN 'integer' THEN v.value ELSE v.key END = o.value
        ) AND NOT EXISTS (
            SELECT 1 FROM json_each(chain.checkpoint, '$.channel_versions') v
            CROSS JOIN checkpoint_blobs b
            WHERE v.key = o.value AND b.thread_id = $1 AND b.checkpoint_ns = $2
                AND b.channel = o.value AND b.version = CAST(coalesce(
                    CASE v.type WHEN 'real' THEN chain.checkpoint -> v.fullkey END, v.value
                ) AS TEXT)
                AND b.type <> 'empty'
        )
    )
    FROM chain
    JOIN checkpoints c ON c.thread_id = $1 AND c.checkpoint_ns = $2
        AND c.checkpoint_id = chain.parent_checkpoint_id
    WHERE chain.open <> '[]' AND c.checkpoint_id <> chain.checkpoint_id
)
SELECT 0, chain.depth, o.value, w.type, w.blob, w.task_id, w.task_path, w.idx,
    chain.checkpoint_id
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN checkpoint_writes w ON w.thread_id = $1 AND w.checkpoint_ns = $2
    AND w.checkpoint_id = chain.checkpoint_id AND w.channel = o.value
UNION ALL
SELECT 1, chain.depth, o.value, b.type, b.blob, NULL, NULL, NULL, b.version
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN json_each(chain.checkpoint, '$.channel_versions') v ON v.key = o.value
CROSS JOIN checkpoint_blobs b ON b.thread_id = $1 AND b.checkpoint_ns = $2
    AND b.channel = o.value AND b.version = CAST(coalesce(
        CASE v.type WHEN 'real' THEN chain.checkpoint -> v.fullkey END, v.value
    ) AS TEXT)
UNION ALL
SELECT 2, chain.depth, o.value, chain.checkpoint -> '$.channel_values', NULL,
    NULL, NULL, NULL, chain.checkpoint_id
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN json_each(chain.checkpoint, '$.channel_values') v
    ON CASE typeof(v.key) WHEN 'integer' THEN v.value ELSE v.key END = o.value;
