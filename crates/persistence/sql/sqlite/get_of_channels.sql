WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2 ORDER BY checkpoint_id DESC LIMIT 1
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint,
    metadata, NULL, NULL, NULL
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, CAST(coalesce(
        CASE v.type WHEN 'real' THEN p.checkpoint -> v.fullkey END, v.value
    ) AS TEXT) AS value
    FROM page p CROSS JOIN json_each(p.checkpoint, '$.channel_versions') v
    WHERE v.key IN (SELECT value FROM json_each($3))
) used
CROSS JOIN checkpoint_blobs b
WHERE b.thread_id = used.thread_id AND b.checkpoint_ns = used.checkpoint_ns
    AND b.channel = used.key AND b.version = used.value
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p CROSS JOIN checkpoint_writes w
WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns
    AND w.checkpoint_id = p.checkpoint_id
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p CROSS JOIN checkpoint_writes w
WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns
    AND w.checkpoint_id = p.parent_checkpoint_id
    AND p.checkpoint ->> '$.v' < 4 AND w.channel = '__pregel_tasks';
