WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ($1, clock_timestamp(), $10::bigint)
    ON CONFLICT (thread_id) DO UPDATE SET epoch = excluded.epoch WHERE t.epoch < excluded.epoch
    RETURNING 1
), written AS (INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING) SELECT 1 FROM thread;
