
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
    AND p.checkpoint ->> '$.v' < 4 AND w.channel = '__pregel_tasks'
