BEGIN IMMEDIATE;

INSERT OR FAIL INTO threads (thread_id, updated_at)
SELECT * FROM (VALUES (?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET updated_at = threads.updated_at WHERE false;
INSERT OR FAIL INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob;

COMMIT;
