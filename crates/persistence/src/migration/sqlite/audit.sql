-- Who has done what that can't be undone, at seconds since 1970. Owners by their ids, which tell nobody
-- their names.
CREATE TABLE agent_audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL DEFAULT (unixepoch('now', 'subsec')),
    who TEXT NOT NULL,
    owner BLOB,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    count INTEGER
) STRICT;

CREATE INDEX agent_audit_owner_idx ON agent_audit (owner, position) WHERE owner IS NOT NULL;

-- Rows stay as they are, and go when they are old; see audit::SHORTEST_AGE.
CREATE TRIGGER agent_audit_stays BEFORE UPDATE ON agent_audit BEGIN
    SELECT RAISE(ABORT, 'agent_audit is append-only');
END;

CREATE TRIGGER agent_audit_stays_for_long BEFORE DELETE ON agent_audit
WHEN OLD.at >= unixepoch('now', 'subsec') - 2592000 BEGIN
    SELECT RAISE(ABORT, 'agent_audit is append-only');
END;
