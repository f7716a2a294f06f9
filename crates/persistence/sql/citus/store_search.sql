SELECT * FROM (
    SELECT $1, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $2 AND s.ttl_minutes IS NOT NULL, NULL::boolean, NULL::float8
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $5 AND s.prefix ~<~ $4
        AND (s.prefix = $5 OR s.prefix ~>=~ $3)
    ORDER BY s.updated_at DESC, s.prefix COLLATE "C", s.key COLLATE "C"
    LIMIT $6 OFFSET $7
) found;
