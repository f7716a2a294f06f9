BEGIN IMMEDIATE;

SELECT 1 FROM threads WHERE thread_id = $1;

SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty';

SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint,
    c.metadata, EXISTS (
        SELECT 1 FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1;

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

DELETE FROM checkpoints WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = $1
AND (checkpoint_ns, parent_checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND (checkpoint_ns, channel, version) IN
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($2));

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM threads WHERE thread_id = $1 AND epoch = 0
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

COMMIT;
