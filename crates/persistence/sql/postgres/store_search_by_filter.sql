SELECT * FROM (
    SELECT $1, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $2 AND s.ttl_minutes IS NOT NULL, NULL::boolean, NULL::float8
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $5 AND s.prefix ~<~ $4
        AND (s.prefix = $5 OR s.prefix ~>=~ $3)
        AND coalesce(s.value #> $6, 'null') = $7::jsonb
        AND (jsonb_typeof(s.value #> $8) = 'number' AND s.value #> $8 >= $9::jsonb)
        AND coalesce(s.value #> $10, 'null') <> $11::jsonb
        AND coalesce(s.value #> $12, 'null') = $13::jsonb
        AND coalesce(s.value #> $14, 'null') = $15::jsonb
        AND CASE WHEN jsonb_typeof(s.value #> $16) = 'array'
            THEN jsonb_array_length(s.value #> $16) = $17 ELSE false END
        AND jsonb_typeof(s.value #> $18) = 'object'
        AND (jsonb_typeof(s.value #> $19) = 'string' AND (s.value #>> $19) COLLATE "C" < $20)
        AND coalesce(s.value #> $21, 'null') = $22::jsonb
    ORDER BY s.updated_at DESC, s.prefix COLLATE "C", s.key COLLATE "C"
    LIMIT $23 OFFSET $24
) found;
