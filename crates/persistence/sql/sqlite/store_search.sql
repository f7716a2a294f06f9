SELECT * FROM (
    SELECT $1, s.prefix, s.key, s.value, s.created_at, s.updated_at, $2 AND s.ttl_minutes IS NOT NULL, NULL, NULL
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > $3)
        AND s.prefix >= $6 AND s.prefix < $5
        AND (s.prefix = $6 OR s.prefix >= $4)
    ORDER BY s.updated_at DESC, s.prefix, s.key
    LIMIT $7 OFFSET $8
) found;
