WITH locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtext('agentkit store ' || current_schema()))
)
, put AS (
    INSERT INTO store AS s
        (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
    SELECT g.prefix, g.key, g.value::jsonb, statement_timestamp(), statement_timestamp(),
        statement_timestamp() + g.minutes * interval '1 minute', g.minutes
    FROM locked, unnest($1, $2, $3, $4) g (prefix, key, value, minutes)
    ON CONFLICT ON CONSTRAINT store_pkey DO UPDATE
    SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, ttl_minutes = excluded.ttl_minutes,
        created_at = CASE WHEN s.expires_at <= excluded.updated_at THEN excluded.created_at
            ELSE s.created_at END
)
SELECT WHERE false;

DELETE FROM store WHERE expires_at <= statement_timestamp();
