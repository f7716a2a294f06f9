WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', COALESCE($1, current_setting('lock_timeout')), true)
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at)
    SELECT u.id, clock_timestamp() FROM patience, unnest($2::text[]) u (id)
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE SET updated_at = GREATEST(t.updated_at, excluded.updated_at)
    WHERE excluded.thread_id = ANY ($3::text[])
    RETURNING 1
), locked AS MATERIALIZED (SELECT count(*) FROM thread), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.* FROM locked, unnest($4::text[], $5::text[], $6::text[],
        $7::text[], $8::text[], $9::bytea[]) r (thread_id)
), first_writes AS (
    INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.* FROM locked, unnest($10::text[], $11::text[], $12::text[],
        $13::text[], $14::text[], $15::int[], $16::text[], $17::text[],
        $18::bytea[]) r (thread_id)
)
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT r.thread_id, r.checkpoint_ns, r.id, r.parent, r.checkpoint::jsonb, r.metadata::jsonb
    FROM locked, unnest($19::text[], $20::text[], $21::text[], $22::text[],
        $23::text[], $24::text[])
        r (thread_id, checkpoint_ns, id, parent, checkpoint, metadata);
