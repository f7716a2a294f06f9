UPDATE agentkit_migrations SET version = version WHERE rowid = 1;
