SELECT id FROM agent_servers WHERE has_died = 0;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE (status = 'running') AND (agent_turns.opened) AND ((lease_owner IS NULL OR lease_renewed_at IS NULL
        OR max(lease_renewed_at, COALESCE((
            SELECT s.renewed_at FROM agent_servers s WHERE s.id = lease_owner
        ), 0)) + lease_ms / 1000.0 <= unixepoch('now', 'subsec')
        OR EXISTS (SELECT 1 FROM agent_servers s WHERE s.id = lease_owner AND s.has_died))) ORDER BY "agent_turns"."position" ASC LIMIT ?;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."input", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE (status = 'queued') AND (agent_turns.opened) AND (NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status IN ('queued', 'waiting')
        AND (o.status = 'waiting' OR o.position < agent_turns.position)
)) ORDER BY "agent_turns"."position" ASC LIMIT ?;

SELECT "agent_conversations"."id", "agent_conversations"."checkpoint_thread_id", "agent_conversations"."owner", "agent_conversations"."title", "agent_conversations"."metadata_", "agent_conversations"."created_at", "agent_conversations"."updated_at", "agent_conversations"."position" FROM "agent_conversations" WHERE "agent_conversations"."id" = ? LIMIT ?;
