SELECT b.channel, b.version, b.type, b.blob
FROM jsonb_array_elements($3::jsonb) wanted CROSS JOIN LATERAL (
    SELECT channel, version, type, blob FROM checkpoint_blobs
    WHERE thread_id = $1 AND checkpoint_ns = $2
        AND channel = wanted ->> 0 AND version = wanted ->> 1
    OFFSET 0
) b;
