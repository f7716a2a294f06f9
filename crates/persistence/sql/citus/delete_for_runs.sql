BEGIN;

SELECT DISTINCT thread_id FROM checkpoints
WHERE metadata ->> 'run_id' IN (SELECT jsonb_array_elements_text($1::jsonb));

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty';

SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text,
    c.metadata::text, EXISTS (
        SELECT FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1;

DELETE FROM checkpoint_writes w USING jsonb_array_elements($2::jsonb) gone
WHERE w.thread_id = $1 AND w.checkpoint_ns = gone ->> 0 AND w.checkpoint_id = gone ->> 1;

DELETE FROM checkpoints c USING jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.checkpoint_id = gone ->> 1;

UPDATE checkpoints c SET parent_checkpoint_id = NULL
FROM jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.parent_checkpoint_id = gone ->> 1;

DELETE FROM checkpoint_blobs b USING jsonb_array_elements($2::jsonb) gone
WHERE b.thread_id = $1 AND b.checkpoint_ns = gone ->> 0 AND b.channel = gone ->> 1
    AND b.version = gone ->> 2;

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM threads WHERE thread_id = $1 AND epoch = 0
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty';

SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text,
    c.metadata::text, EXISTS (
        SELECT FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1;

DELETE FROM checkpoint_writes w USING jsonb_array_elements($2::jsonb) gone
WHERE w.thread_id = $1 AND w.checkpoint_ns = gone ->> 0 AND w.checkpoint_id = gone ->> 1;

DELETE FROM checkpoints c USING jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.checkpoint_id = gone ->> 1;

UPDATE checkpoints c SET parent_checkpoint_id = NULL
FROM jsonb_array_elements($2::jsonb) gone
WHERE c.thread_id = $1 AND c.checkpoint_ns = gone ->> 0 AND c.parent_checkpoint_id = gone ->> 1;

DELETE FROM checkpoint_blobs b USING jsonb_array_elements($2::jsonb) gone
WHERE b.thread_id = $1 AND b.checkpoint_ns = gone ->> 0 AND b.channel = gone ->> 1
    AND b.version = gone ->> 2;

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM threads WHERE thread_id = $1 AND epoch = 0
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

COMMIT;
