INSERT INTO "agent_api_keys" ("id", "name", "digest", "scope", "owner", "created_at", "expires_at", "revoked_at") VALUES (?, ?, ?, ?, ?, ?, ?, ?);
