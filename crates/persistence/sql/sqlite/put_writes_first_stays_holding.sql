BEGIN IMMEDIATE;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

INSERT OR FAIL INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;

COMMIT;
