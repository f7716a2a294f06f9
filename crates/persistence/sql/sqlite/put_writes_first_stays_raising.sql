BEGIN IMMEDIATE;

INSERT INTO threads (thread_id, epoch, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE epoch < excluded.epoch;

INSERT OR FAIL INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;

COMMIT;
