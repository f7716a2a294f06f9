SELECT * FROM (
    SELECT $1, s.prefix, s.key, s.value, s.created_at, s.updated_at, $2 AND s.ttl_minutes IS NOT NULL, NULL, NULL
    FROM store s WHERE (s.expires_at IS NULL OR s.expires_at > $3)
        AND s.prefix >= $6 AND s.prefix < $5
        AND (s.prefix = $6 OR s.prefix >= $4)
        AND coalesce(json_type(s.value, $7), 'null') = 'null'
        AND (json_type(s.value, $8) IN ('integer', 'real') AND s.value ->> $8 >= $9)
        AND NOT coalesce((json_type(s.value, $10) IN ('integer', 'real') AND s.value ->> $10 = $11), false)
        AND json_type(s.value, $12) IS 'true'
        AND (json_type(s.value, $13) IS 'text' AND s.value ->> $13 = $14)
        AND (json_type(s.value, $15) IS 'array' AND json_array_length(s.value, $15) = $16)
        AND json_type(s.value, $17) IS 'object'
        AND (json_type(s.value, $18) IN ('text') AND s.value ->> $18 < $19)
        AND (json_type(s.value, $20) IS 'object' AND (SELECT count(*) FROM json_each(s.value, $20)) = $21 AND json_type(s.value, $22) IS NOT NULL AND (json_type(s.value, $23) IS 'array' AND json_array_length(s.value, $23) = $24 AND (json_type(s.value, $25) IN ('integer', 'real') AND s.value ->> $25 = $26)))
    ORDER BY s.updated_at DESC, s.prefix, s.key
    LIMIT $27 OFFSET $28
) found;
