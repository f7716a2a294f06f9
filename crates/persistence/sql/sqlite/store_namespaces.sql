SELECT * FROM (
    SELECT DISTINCT $1, s.prefix, NULL, NULL, NULL, NULL, 0, NULL, NULL
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > $2)
        AND s.prefix >= $5 AND s.prefix < $4
        AND (s.prefix = $5 OR s.prefix >= $3)
) listed;
