WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $3::bigint FOR UPDATE
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = $1 AND EXISTS (SELECT FROM thread)
        AND updated_at < statement_timestamp() - INTERVAL '1 s'
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $2, b.*
    FROM thread, unnest($4::text[], $5::text[], $6::text[], $7::bytea[]) b
), checkpoint AS (
    INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT $1, $2, $8, $9, $10::jsonb, $11::jsonb
    FROM thread
)
SELECT $1 WHERE NOT EXISTS (SELECT FROM thread);

SELECT epoch FROM threads WHERE thread_id = $1;
