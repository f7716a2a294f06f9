WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $3::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), written AS (
    INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $4, $5, $6, w.*
    FROM thread, unnest($7::int[], $8::text[], $9::text[], $10::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
SELECT 1 FROM thread;
