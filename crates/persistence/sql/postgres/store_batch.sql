BEGIN;

SELECT pg_advisory_xact_lock(hashtext('agentkit store ' || current_schema()));

WITH put AS (
    INSERT INTO store AS s
        (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
    SELECT g.prefix, g.key, g.value::jsonb, statement_timestamp(), statement_timestamp(),
        statement_timestamp() + g.minutes * interval '1 minute', g.minutes
    FROM unnest($1, $2, $3, $4) g (prefix, key, value, minutes)
    ON CONFLICT ON CONSTRAINT store_pkey DO UPDATE
    SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, ttl_minutes = excluded.ttl_minutes,
        created_at = CASE WHEN s.expires_at <= excluded.updated_at THEN excluded.created_at
            ELSE s.created_at END
)
, gone AS (
    DELETE FROM store s USING unnest($5, $6) g (prefix, key)
    WHERE s.prefix = g.prefix AND s.key = g.key
)
SELECT g.place, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, g.renews AND s.ttl_minutes IS NOT NULL, NULL::boolean, NULL::float8
FROM unnest($7, $8, $9, $10) g (place, prefix, key, renews)
JOIN store s ON s.prefix = g.prefix AND s.key = g.key
WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
UNION ALL
SELECT $11, array_to_string(listed.labels, '.'), NULL::text, NULL::text, NULL::bigint,
    NULL::bigint, false, NULL::boolean, NULL::float8
FROM (
    SELECT DISTINCT n.labels[:$12] COLLATE "C" AS labels
    FROM (
        SELECT string_to_array(s.prefix, '.') AS labels FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $15 AND s.prefix ~<~ $14
        AND (s.prefix = $15 OR s.prefix ~>=~ $13)
    ) n
    WHERE true
        AND cardinality(n.labels) >= $16
        AND n.labels[$18] = $17
        AND cardinality(n.labels) >= $19
        AND n.labels[cardinality(n.labels) - $19 + $21] = $20
    ORDER BY 1
    LIMIT $22 OFFSET $23
) listed
UNION ALL
SELECT * FROM (
    SELECT $24, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $25 AND s.ttl_minutes IS NOT NULL, NULL::boolean, NULL::float8
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $28 AND s.prefix ~<~ $27
        AND (s.prefix = $28 OR s.prefix ~>=~ $26)
    ORDER BY s.updated_at DESC, s.prefix COLLATE "C", s.key COLLATE "C"
    LIMIT $29 OFFSET $30
) found;

COMMIT;
