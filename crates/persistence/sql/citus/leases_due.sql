SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE (status = 'running') AND ((lease_owner IS NULL OR lease_renewed_at IS NULL
        OR lease_renewed_at + lease_ms * INTERVAL '1 millisecond' <= statement_timestamp())) ORDER BY "agent_turns"."position" ASC LIMIT $1;

SELECT "agent_turns"."conversation_id", "agent_turns"."id", "agent_turns"."user_message_id", "agent_turns"."assistant_message_id", "agent_turns"."status", "agent_turns"."error", "agent_turns"."interrupt", "agent_turns"."attempt", "agent_turns"."epoch", "agent_turns"."lease_owner", "agent_turns"."lease_ms", "agent_turns"."started_at", "agent_turns"."created_at", "agent_turns"."updated_at", "agent_turns"."position" FROM "agent_turns" WHERE (status = 'queued') AND (NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status IN ('queued', 'waiting')
        AND (o.status = 'waiting' OR o.position < agent_turns.position)
)) ORDER BY "agent_turns"."position" ASC LIMIT $1;
