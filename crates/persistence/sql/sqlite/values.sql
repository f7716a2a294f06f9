SELECT channel, version, type, blob FROM checkpoint_blobs
WHERE thread_id = $1 AND checkpoint_ns = $2
AND (channel, version) IN (SELECT value ->> 0, value ->> 1 FROM json_each($3));
