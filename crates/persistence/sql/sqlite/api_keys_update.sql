BEGIN IMMEDIATE;

SELECT "agent_api_keys"."id", "agent_api_keys"."name", "agent_api_keys"."digest", "agent_api_keys"."scope", "agent_api_keys"."owner", "agent_api_keys"."created_at", "agent_api_keys"."expires_at", "agent_api_keys"."revoked_at" FROM "agent_api_keys" WHERE "agent_api_keys"."id" = ? LIMIT ?;

UPDATE "agent_api_keys" SET "name" = ?, "digest" = ?, "scope" = ?, "owner" = ?, "created_at" = ?, "expires_at" = ?, "revoked_at" = ? WHERE "agent_api_keys"."id" = ? RETURNING "id", "name", "digest", "scope", "owner", "created_at", "expires_at", "revoked_at";

COMMIT;
