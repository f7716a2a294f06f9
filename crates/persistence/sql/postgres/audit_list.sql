SELECT position, at, who, owner, action, subject, count FROM agent_audit
WHERE position < $1 AND ($2::uuid IS NULL OR owner = $2) ORDER BY position DESC LIMIT $3;
