WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($3::text[], $4::text[], $5::text[], $6::bytea[]) b
), writes AS (
    INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $7, $8, $9, w.*
    FROM thread, unnest($10::int[], $11::text[], $12::text[], $13::bytea[]) w
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $14, $15, $16::jsonb, $17::jsonb
    FROM thread;
