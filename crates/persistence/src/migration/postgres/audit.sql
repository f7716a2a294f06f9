-- Who has done what that can't be undone. Owners by their ids, which tell nobody their names.
CREATE TABLE agent_audit (
    position BIGSERIAL PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    who TEXT NOT NULL,
    owner UUID,
    action VARCHAR(40) NOT NULL,
    subject TEXT NOT NULL,
    count BIGINT
);

CREATE INDEX agent_audit_owner_idx ON agent_audit (owner, position) WHERE owner IS NOT NULL;

-- Rows stay as they are, and go when they are old; see audit::SHORTEST_AGE.
CREATE FUNCTION agent_audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < clock_timestamp() - INTERVAL '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'agent_audit is append-only';
END $$;

CREATE TRIGGER agent_audit_stays BEFORE UPDATE OR DELETE ON agent_audit
FOR EACH ROW EXECUTE FUNCTION agent_audit_stays();

CREATE TRIGGER agent_audit_is_not_emptied BEFORE TRUNCATE ON agent_audit
FOR EACH STATEMENT EXECUTE FUNCTION agent_audit_stays();
