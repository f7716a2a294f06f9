WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2 ORDER BY checkpoint_id DESC LIMIT 1
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text,
    metadata::text, NULL, NULL::int, NULL::bytea
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, v.value
    FROM page p CROSS JOIN LATERAL jsonb_each_text(p.checkpoint -> 'channel_versions') v
    WHERE v.key = ANY ($3)
) used
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs
    WHERE thread_id = used.thread_id AND checkpoint_ns = used.checkpoint_ns
        AND channel = used.key AND version = used.value
    OFFSET 0
) b
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = p.thread_id AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.checkpoint_id
    OFFSET 0
) w
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = p.thread_id AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.parent_checkpoint_id
    OFFSET 0
) w
WHERE (p.checkpoint ->> 'v')::numeric < 4 AND w.channel = '__pregel_tasks';
