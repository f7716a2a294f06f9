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

BEGIN IMMEDIATE;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

INSERT OR FAIL INTO threads (thread_id, updated_at)
SELECT * FROM (VALUES (?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE substr(excluded.updated_at, 1, 19) > substr(threads.updated_at, 1, 19);
INSERT OR FAIL INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;
INSERT OR FAIL INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

COMMIT;
