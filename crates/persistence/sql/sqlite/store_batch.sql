SELECT g.value ->> 0, s.prefix, s.key, s.value, s.created_at, s.updated_at, g.value ->> 3 AND s.ttl_minutes IS NOT NULL, NULL, NULL
FROM json_each($1) g
JOIN store s ON s.prefix = g.value ->> 1 AND s.key = g.value ->> 2
WHERE (s.expires_at IS NULL OR s.expires_at > $2)
UNION ALL
SELECT * FROM (
    SELECT DISTINCT $3, s.prefix, NULL, NULL, NULL, NULL, 0, NULL, NULL
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > $4)
        AND s.prefix >= $7 AND s.prefix < $6
        AND (s.prefix = $7 OR s.prefix >= $5)
) listed
UNION ALL
SELECT * FROM (
    SELECT $8, s.prefix, s.key, s.value, s.created_at, s.updated_at, $9 AND s.ttl_minutes IS NOT NULL, NULL, NULL
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > $10)
        AND s.prefix >= $13 AND s.prefix < $12
        AND (s.prefix = $13 OR s.prefix >= $11)
    ORDER BY s.updated_at DESC, s.prefix, s.key
    LIMIT $14 OFFSET $15
) found;

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

DELETE FROM store WHERE (prefix, key) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($1));

COMMIT;
