BEGIN;

INSERT INTO threads (thread_id, updated_at)
VALUES ($1, clock_timestamp())
ON CONFLICT (thread_id) DO UPDATE SET updated_at = threads.updated_at WHERE false;

INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob;

COMMIT;
