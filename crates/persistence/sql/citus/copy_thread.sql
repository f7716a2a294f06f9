BEGIN;

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1),
    EXISTS (SELECT 1 FROM threads WHERE thread_id = $2)
    OR EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $2)
    OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread_id = $2);

INSERT INTO threads (thread_id, parent_id, updated_at)
VALUES ($2, $1, clock_timestamp()) ON CONFLICT DO NOTHING;

INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    type, checkpoint, metadata)
SELECT $2, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints WHERE thread_id = $1;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT $2, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs WHERE thread_id = $1;

INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,
    idx, channel, type, blob)
SELECT $2, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
FROM checkpoint_writes WHERE thread_id = $1;

COMMIT;
