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
) used
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs
    WHERE thread_id = $1 AND checkpoint_ns = used.checkpoint_ns
        AND channel = used.key AND version = used.value
    OFFSET 0
) b
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = $1 AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.checkpoint_id
    OFFSET 0
) w
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = $1 AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.parent_checkpoint_id
    OFFSET 0
) w
WHERE (p.checkpoint ->> 'v')::numeric < 4 AND w.channel = '__pregel_tasks';

BEGIN;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

INSERT INTO threads (thread_id, updated_at)
VALUES ($1, clock_timestamp())
ON CONFLICT (thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE excluded.updated_at > threads.updated_at;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING;

INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES ($1, $2, $3, $4, $5::jsonb, $6::jsonb)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

COMMIT;
