WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = t.updated_at WHERE false
    RETURNING 1
), locked AS MATERIALIZED (
    SELECT count(*) FROM thread
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $1, $2, $3, $4, $5, w.*
    FROM locked, unnest($6::int[], $7::text[], $8::text[], $9::bytea[]) w;
