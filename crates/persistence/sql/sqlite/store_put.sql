BEGIN IMMEDIATE;

INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
SELECT value ->> 0, value ->> 1, value ->> 2, $2, $2,
    $2 + CAST(value ->> 3 * 60000000 AS INTEGER), value ->> 3
FROM json_each($1) WHERE true
ON CONFLICT (prefix, key) DO UPDATE
SET value = excluded.value, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
    ttl_minutes = excluded.ttl_minutes,
    created_at = CASE WHEN store.expires_at <= excluded.updated_at THEN excluded.created_at
        ELSE store.created_at END;

DELETE FROM store_vectors WHERE (prefix, key) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($1));

COMMIT;

DELETE FROM store WHERE expires_at <= $1;
