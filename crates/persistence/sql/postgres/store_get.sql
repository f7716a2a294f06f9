SELECT g.place, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, g.renews AND s.ttl_minutes IS NOT NULL, NULL::boolean, NULL::float8
FROM unnest($1, $2, $3, $4) g (place, prefix, key, renews)
JOIN store s ON s.prefix = g.prefix AND s.key = g.key
WHERE (s.expires_at IS NULL OR s.expires_at > statement_timestamp());
