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
, embedded AS (
    SELECT * FROM unnest($5, $6, $7, $8) g (prefix, key, field, embedding)
), remembered AS (
    INSERT INTO store_vectors AS v (prefix, key, field_name, embedding, created_at, updated_at)
    SELECT g.prefix, g.key, g.field, g.embedding::vector, statement_timestamp(), statement_timestamp()
    FROM embedded g
    ON CONFLICT ON CONSTRAINT store_vectors_pkey DO UPDATE
    SET embedding = excluded.embedding, updated_at = excluded.updated_at
), forgotten AS (
    DELETE FROM store_vectors v USING (SELECT DISTINCT prefix, key FROM embedded) p
    WHERE v.prefix = p.prefix AND v.key = p.key AND NOT EXISTS (
        SELECT FROM embedded g
        WHERE g.prefix = v.prefix AND g.key = v.key AND g.field = v.field_name
    )
)
SELECT * FROM (
    SELECT $9, s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $10 AND s.ttl_minutes IS NOT NULL, true,
        ts_rank(w.words, q.wanted, 1)::float8 AS score
    FROM store s
    CROSS JOIN (SELECT replace(plainto_tsquery('simple', $11)::text, ' & ', ' | ')::tsquery
        AS wanted) q
    CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(s.value::text) <= 500000
        THEN jsonb_to_tsvector('simple', s.value, '["string"]') END AS words) w
    WHERE w.words @@ q.wanted AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $14 AND s.prefix ~<~ $13
        AND (s.prefix = $14 OR s.prefix ~>=~ $12)
    ORDER BY score DESC, s.prefix COLLATE "C", s.key COLLATE "C"
    LIMIT $15
) by_text
UNION ALL
SELECT $16, f.prefix, f.key, f.value, f.created_at, f.updated_at, f.renews, false, 1 - f.distance
FROM (
    SELECT $18::vector AS wanted, set_config('hnsw.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.ef_search', $19, true),
        set_config('hnsw.max_scan_tuples', '200000', true)
    OFFSET 0
) q
CROSS JOIN LATERAL (
    SELECT s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint, $17 AND s.ttl_minutes IS NOT NULL, v.embedding <=> q.wanted
    FROM store_vectors v JOIN store s ON s.prefix = v.prefix AND s.key = v.key
    WHERE v.updated_at >= s.updated_at AND NOT EXISTS (
            SELECT FROM store_vectors o
            WHERE o.prefix = v.prefix AND o.key = v.key AND o.field_name <> v.field_name
                AND o.updated_at >= s.updated_at AND (o.embedding <=> q.wanted, o.field_name)
                    < (v.embedding <=> q.wanted, v.field_name)
        )
        AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
        AND s.prefix ~>=~ $22 AND s.prefix ~<~ $21
        AND (s.prefix = $22 OR s.prefix ~>=~ $20)
    ORDER BY v.embedding <=> q.wanted
    LIMIT $23
) f (prefix, key, value, created_at, updated_at, renews, distance);
