BEGIN;

INSERT INTO "agent_api_keys" ("id", "name", "digest", "scope", "owner", "created_at", "expires_at", "revoked_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8), ($9, $10, $11, $12, $13, $14, $15, $16);

COMMIT;
