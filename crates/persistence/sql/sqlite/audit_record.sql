INSERT INTO agent_audit (who, owner, action, subject, count) VALUES ($1, $2, $3, $4, $5);
