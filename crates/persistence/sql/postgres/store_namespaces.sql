SELECT $1, array_to_string(listed.labels, '.'), NULL::text, NULL::text, NULL::bigint,
    NULL::bigint, false, NULL::boolean, NULL::float8
FROM (
    SELECT DISTINCT n.labels[:$2] COLLATE "C" AS labels
    FROM (
        SELECT string_to_array(s.prefix, '.') AS labels FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $5 AND s.prefix ~<~ $4
        AND (s.prefix = $5 OR s.prefix ~>=~ $3)
    ) n
    WHERE true
        AND cardinality(n.labels) >= $6
        AND n.labels[$8] = $7
        AND cardinality(n.labels) >= $9
        AND n.labels[cardinality(n.labels) - $9 + $11] = $10
    ORDER BY 1
    LIMIT $12 OFFSET $13
) listed;
