-- AgentKit's `put` and `put_writes`.
WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    VALUES (lpad(:thread::text, 36, '0'), clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT lpad(:thread::text, 36, '0'), '', b.*
    FROM thread, unnest(
        ARRAY['messages', 'context'],
        ARRAY[lpad(:step::text, 32, '0') || '.0123456789012345', lpad(:step::text, 32, '0') || '.0123456789012345'],
        ARRAY['msgpack', 'msgpack'],
        ARRAY[substr(:messages::bytea, 1, :length::int), :context::bytea]
    ) b
    ON CONFLICT DO NOTHING
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT lpad(:thread::text, 36, '0'), '', lpad(:step::text, 36, '0'), lpad((:step - 1)::text, 36, '0'),
    replace(:checkpoint, '@', lpad(:step::text, 32, '0'))::jsonb, :metadata::jsonb
FROM thread
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;
WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    VALUES (lpad(:thread::text, 36, '0'), clock_timestamp())
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at WHERE false
    RETURNING 1
), locked AS MATERIALIZED (
    SELECT count(*) FROM thread
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT lpad(:thread::text, 36, '0'), '', lpad(:step::text, 36, '0'), :task, :task_path, w.*
FROM locked, unnest(
    ARRAY[0, 1], ARRAY['messages', 'context'], ARRAY['msgpack', 'msgpack'],
    ARRAY[:message::bytea, :context::bytea]
) w
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING;
