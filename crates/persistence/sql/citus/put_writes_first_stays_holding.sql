BEGIN;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING;

COMMIT;
