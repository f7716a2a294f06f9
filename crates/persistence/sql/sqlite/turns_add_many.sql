BEGIN IMMEDIATE;

INSERT INTO "agent_turns" ("conversation_id", "id", "user_message_id", "assistant_message_id", "input", "status", "error", "interrupt", "attempt", "epoch", "lease_owner", "lease_ms", "started_at", "created_at", "updated_at") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

COMMIT;
