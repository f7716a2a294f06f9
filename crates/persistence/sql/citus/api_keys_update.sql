BEGIN;

SELECT "agent_api_keys"."id", "agent_api_keys"."name", "agent_api_keys"."digest", "agent_api_keys"."scope", "agent_api_keys"."owner", "agent_api_keys"."created_at", "agent_api_keys"."expires_at", "agent_api_keys"."revoked_at" FROM "agent_api_keys" WHERE "agent_api_keys"."id" = $1 LIMIT $2 FOR NO KEY UPDATE;

UPDATE "agent_api_keys" SET "name" = $1, "digest" = $2, "scope" = $3, "owner" = $4, "created_at" = $5, "expires_at" = $6, "revoked_at" = $7 WHERE "agent_api_keys"."id" = $8 RETURNING "id", "name", "digest", "scope", "owner", "created_at", "expires_at", "revoked_at";

COMMIT;
