BEGIN;

INSERT INTO "agent_turns" ("conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15), ($16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30);

COMMIT;
