WITH gone AS (
    DELETE FROM store s USING unnest($1, $2) g (prefix, key)
    WHERE s.prefix = g.prefix AND s.key = g.key
)
SELECT WHERE false;
