WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints WHERE checkpoint_ns = $1 AND (1 AND EXISTS (SELECT 1 FROM json_each(metadata) f0 WHERE f0.key = $2 AND f0.type = 'true') AND EXISTS (SELECT 1 FROM json_each(metadata) f0 WHERE f0.key = $3 AND f0.type = 'array' AND EXISTS (SELECT 1 FROM json_each(f0.value) f1 WHERE 1 AND f1.type IN ('integer', 'real') AND f1.value = $4) AND EXISTS (SELECT 1 FROM json_each(f0.value) f1 WHERE 1 AND f1.type = 'text' AND f1.value = $5)) AND EXISTS (SELECT 1 FROM json_each(metadata) f0 WHERE f0.key = $6 AND f0.type = 'null') AND EXISTS (SELECT 1 FROM json_each(metadata) f0 WHERE f0.key = $7 AND f0.type = 'object' AND (1 AND EXISTS (SELECT 1 FROM json_each(f0.value) f1 WHERE f1.key = $8 AND f1.type IN ('integer', 'real') AND f1.value = $9))) AND EXISTS (SELECT 1 FROM json_each(metadata) f0 WHERE f0.key = $10 AND f0.type = 'text' AND f0.value = $11)) ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns LIMIT $12
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
