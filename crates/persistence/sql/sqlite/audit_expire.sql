DELETE FROM agent_audit WHERE at < unixepoch('now', 'subsec') - $1;
