-- The rows that LangGraph's saver writes, in the fewest and plainest statements.
WITH blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    VALUES
        (lpad(:thread::text, 36, '0'), '', 'messages',
            lpad(:step::text, 32, '0') || '.0123456789012345', 'msgpack', substr(:messages::bytea, 1, :length::int)),
        (lpad(:thread::text, 36, '0'), '', 'context',
            lpad(:step::text, 32, '0') || '.0123456789012345', 'msgpack', :context)
    ON CONFLICT DO NOTHING
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES (
    lpad(:thread::text, 36, '0'), '', lpad(:step::text, 36, '0'), lpad((:step - 1)::text, 36, '0'),
    replace(:checkpoint, '@', lpad(:step::text, 32, '0'))::jsonb, :metadata)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES
    (lpad(:thread::text, 36, '0'), '', lpad(:step::text, 36, '0'), :task, :task_path, 0, 'messages', 'msgpack', :message),
    (lpad(:thread::text, 36, '0'), '', lpad(:step::text, 36, '0'), :task, :task_path, 1, 'context', 'msgpack', :context)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING;
