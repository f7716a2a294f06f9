-- LangGraph's table as its PostgresStore makes it (migrations 0 to 3), or the rest of it where an older
-- version began. Minutes may have fractions, which that one's column loses.
CREATE TABLE IF NOT EXISTS store_migrations (
    v INTEGER PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS store (
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    value JSONB NOT NULL,
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    expires_at TIMESTAMPTZ,
    ttl_minutes DOUBLE PRECISION,
    PRIMARY KEY (prefix, key)
);

-- An ALTER TABLE locks readers out, even one that changes nothing: only where it is needed.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'store'::regclass AND attname = 'ttl_minutes'
    ) THEN
        ALTER TABLE store ADD COLUMN expires_at TIMESTAMPTZ, ADD COLUMN ttl_minutes DOUBLE PRECISION;
    END IF;
END
$$;

CREATE INDEX IF NOT EXISTS store_prefix_idx ON store (prefix text_pattern_ops);

CREATE INDEX IF NOT EXISTS idx_store_expires_at ON store (expires_at) WHERE expires_at IS NOT NULL;

INSERT INTO store_migrations (v)
SELECT generate_series(0, 3)
ON CONFLICT DO NOTHING;
