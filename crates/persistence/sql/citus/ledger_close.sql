BEGIN;

UPDATE agent_turns SET assistant_message_id = $1, input = $2::json, status = $3, error = $4, interrupt = $5::json, attempt = $6, epoch = $7, lease_owner = $8, lease_ms = $9, started_at = $10, updated_at = $11,
    lease_renewed_at = statement_timestamp()
WHERE conversation_id = $12 AND id = $13 AND status = $14 AND epoch = $15;

INSERT INTO "agent_messages" ("conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL;

COMMIT;
