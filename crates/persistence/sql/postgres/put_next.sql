BEGIN;

INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = t.updated_at WHERE false;

SELECT checkpoint_id FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id <> $3
ORDER BY checkpoint_id DESC LIMIT 1;

WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at) VALUES ($1, clock_timestamp())
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    RETURNING 1
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($3::text[], $4::text[], $5::text[], $6::bytea[]) b
    ON CONFLICT DO NOTHING
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $7, $8, $9::jsonb, $10::jsonb
    FROM thread
    ON CONFLICT ON CONSTRAINT checkpoints_pkey
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;

COMMIT;
