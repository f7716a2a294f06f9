WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $10::bigint FOR UPDATE
), written AS (INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w) SELECT 1 FROM thread;

WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $10::bigint FOR UPDATE
), written AS (INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM thread, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING) SELECT 1 FROM thread;
