-- Divides an installation among tenants. It is no migration of its own, but runs behind those, for the
-- tables that are not divided yet. A row belongs to the tenant of the session that adds it; what was
-- there before belongs to `default`. A session sees the rows of the tenant that agentkit.tenant names,
-- none without it, and those of all as `*`, which is the system's.
DO $$
DECLARE
    mine CONSTANT text := 'current_setting(''agentkit.tenant'', true)';
    tables regclass[];
    owned regclass;
    key record;
    keys text[] := '{}';
    statement text;
BEGIN
    SELECT COALESCE(array_agg(to_regclass(name)), '{}') INTO tables
    FROM unnest('{checkpoints, checkpoint_blobs, checkpoint_writes, threads, agent_conversations,
        agent_messages, agent_turns, agent_turn_events, agent_turn_records, agent_idempotency_keys,
        agent_api_keys, agent_audit, agent_data_keys, agent_parts, agent_search, store, store_vectors}'::text[]) name
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass(name) AND attname = 'tenant' AND NOT attisdropped
    ) AND to_regclass(name) IS NOT NULL;

    -- Each key and reference is one within a tenant, but for what is found before its tenant is.
    -- References go first and come last.
    FOR key IN
        SELECT conrelid::regclass AS owned, conname,
            replace(pg_get_constraintdef(oid), ')', ', tenant)') AS definition
        FROM pg_constraint
        WHERE conrelid = ANY (tables) AND contype IN ('p', 'u', 'f')
            AND conname NOT IN ('agent_conversations_pkey', 'agent_api_keys_pkey')
        ORDER BY contype = 'f' DESC
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', key.owned, key.conname);
        keys := format('ALTER TABLE %s ADD CONSTRAINT %I %s', key.owned, key.conname,
            key.definition) || keys;
    END LOOP;

    FOREACH owned IN ARRAY tables LOOP
        -- A constant first, for which no row is written anew.
        EXECUTE format('ALTER TABLE %s ADD COLUMN tenant text NOT NULL DEFAULT ''default''
            CHECK (tenant NOT IN ('''', ''*''))', owned);
        EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant SET DEFAULT %s', owned, mine);
        EXECUTE format('CREATE POLICY agentkit_tenant ON %s USING (tenant = %2$s OR %2$s = ''*'')',
            owned, mine);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', owned);
    END LOOP;

    -- Which applications may refer to.
    IF to_regclass('agent_conversations') = ANY (tables) THEN
        ALTER TABLE agent_conversations
        ADD CONSTRAINT agent_conversations_tenant_key UNIQUE (id, tenant);
        DROP INDEX agent_conversations_position_idx, agent_conversations_owner_idx;
        CREATE INDEX agent_conversations_position_idx ON agent_conversations (tenant, position);
        CREATE INDEX agent_conversations_owner_idx ON agent_conversations (tenant, owner, position)
        WHERE owner IS NOT NULL;
    END IF;
    FOREACH statement IN ARRAY keys LOOP
        EXECUTE statement;
    END LOOP;
    IF to_regclass('threads') = ANY (tables) THEN
        DROP INDEX threads_updated_at_idx;
        CREATE INDEX threads_updated_at_idx ON threads (tenant, updated_at, thread_id);
    END IF;
    IF to_regclass('agent_search') = ANY (tables) THEN
        -- Under row-level security PostgreSQL asks no index by && .
        DROP INDEX agent_search_keys_idx;
        CREATE INDEX agent_search_position_idx ON agent_search (tenant, position);
        CREATE FUNCTION agent_search_belongs() RETURNS trigger LANGUAGE plpgsql AS $trigger$
        BEGIN
            SELECT c.tenant INTO NEW.tenant FROM agent_conversations c
            WHERE c.id = NEW.conversation_id;
            RETURN NEW;
        END $trigger$;
        CREATE TRIGGER agent_search_belong BEFORE INSERT ON agent_search
        FOR EACH ROW EXECUTE FUNCTION agent_search_belongs();
    END IF;
END
$$;
