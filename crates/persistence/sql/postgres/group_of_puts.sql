WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest($1::text[]) u (id)
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ($2::text[])
    RETURNING 1
), locked AS MATERIALIZED (SELECT count(*) FROM thread), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked, unnest($3::text[], $4::text[], $5::text[],
        $6::text[], $7::text[], $8::bytea[]) r (thread_id)
), first_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($9::text[], $10::text[], $11::text[],
        $12::text[], $13::text[], $14::int[], $15::text[], $16::text[],
        $17::bytea[]) r (thread_id)
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
FROM locked, unnest($18::text[], $19::text[], $20::text[], $21::text[],
    $22::text[], $23::text[])
    r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata);
