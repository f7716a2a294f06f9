BEGIN IMMEDIATE;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

INSERT OR FAIL INTO threads (thread_id, updated_at)
SELECT * FROM (VALUES (?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET updated_at = excluded.updated_at
WHERE substr(excluded.updated_at, 1, 19) > substr(threads.updated_at, 1, 19);
INSERT OR FAIL INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING;
INSERT OR FAIL INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

COMMIT;
