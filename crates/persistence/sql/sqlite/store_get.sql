SELECT g.value ->> 0, s.prefix, s.key, s.value, s.created_at, s.updated_at, g.value ->> 3 AND s.ttl_minutes IS NOT NULL, NULL, NULL
FROM json_each($1) g
JOIN store s ON s.prefix = g.value ->> 1 AND s.key = g.value ->> 2
WHERE (s.expires_at IS NULL OR s.expires_at > $2);
