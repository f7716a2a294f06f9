SELECT * FROM (
    SELECT $1, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $2 AND s.ttl_minutes IS NOT NULL, true,
        ts_rank(w.words, q.wanted, 1)::float8 AS score
    FROM store s
    CROSS JOIN (SELECT replace(plainto_tsquery('simple', $3)::text, ' & ', ' | ')::tsquery
        AS wanted) q
    CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(s.value::text) <= 500000
        THEN jsonb_to_tsvector('simple', s.value, '["string"]') END AS words) w
    WHERE w.words @@ q.wanted AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $6 AND s.prefix ~<~ $5
        AND (s.prefix = $6 OR s.prefix ~>=~ $4)
    ORDER BY score DESC, s.prefix COLLATE "C", s.key COLLATE "C"
    LIMIT $7
) by_text;
