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
    WHERE thread_id = used.thread_id AND checkpoint_ns = used.checkpoint_ns
        AND channel = used.key AND version = used.value
    OFFSET 0
) b
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = p.thread_id AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.checkpoint_id
    OFFSET 0
) w
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = p.thread_id AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.parent_checkpoint_id
    OFFSET 0
) w
WHERE (p.checkpoint ->> 'v')::numeric < 4 AND w.channel = '__pregel_tasks';

BEGIN;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1;

WITH thread AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, statement_timestamp())
    WHERE thread_id = $1 AND epoch = $3::bigint
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($4::text[], $5::text[], $6::text[], $7::bytea[]) b
    ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $8, $9, $10::jsonb, $11::jsonb
    FROM thread
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)
SELECT 1 FROM thread;

COMMIT;
