BEGIN;

SELECT FROM agent_search_progress FOR UPDATE;

SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1;

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT FROM agent_conversations WHERE id = $1 FOR UPDATE;

SELECT id FROM agent_turns WHERE conversation_id = $1 AND status = 'running';

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2 LIMIT $3;

SELECT ctid::text, channel, type, blob FROM checkpoint_blobs WHERE thread_id = $1 AND (position($2 IN blob) > 0);

SELECT ctid::text, channel, type, blob FROM checkpoint_writes WHERE thread_id = $1 AND (position($2 IN blob) > 0);

SELECT ctid::text, '', '', checkpoint::text FROM checkpoints WHERE thread_id = $1 AND (strpos(checkpoint::text, $2) > 0);

SELECT ctid::text, '', '', metadata::text FROM checkpoints WHERE thread_id = $1 AND (strpos(metadata::text, $2) > 0);

SELECT ctid::text, '', '', events::text FROM agent_turn_events WHERE conversation_id = $1 AND (strpos(events::text, $2) > 0);

SELECT ctid::text, name, type, blob FROM agent_turn_records WHERE conversation_id = $1 AND (position($2 IN blob) > 0);

SELECT ctid::text, '', '', input::text FROM agent_turns WHERE conversation_id = $1 AND (strpos(input::text, $2) > 0);

SELECT ctid::text, '', '', interrupt::text FROM agent_turns WHERE conversation_id = $1 AND (strpos(interrupt::text, $2) > 0);

SELECT ctid::text, '', '', error::text FROM agent_turns WHERE conversation_id = $1 AND (strpos(error::text, $2) > 0);

DELETE FROM agent_search WHERE conversation_id = $1 AND message_id = $2;

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = $1 AND "agent_messages"."id" = $2 LIMIT $3 FOR NO KEY UPDATE;

UPDATE "agent_messages" SET "role" = $1, "content" = $2, "parts" = $3, "parent_id" = $4, "is_chosen" = $5, "checkpoint_id" = $6, "metadata_" = $7, "created_at" = $8 WHERE "agent_messages"."conversation_id" = $9 AND "agent_messages"."id" = $10 RETURNING "conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at", "position";

UPDATE threads SET epoch = epoch + 1 WHERE thread_id = $1 AND epoch > 0;

UPDATE checkpoints SET metadata = jsonb_set(metadata, '{epoch}', (
    SELECT to_jsonb(epoch) FROM threads WHERE thread_id = $1
))
WHERE thread_id = $1 AND checkpoint_ns = '' AND metadata -> 'epoch' IS NOT NULL
    AND checkpoint_id = (
        SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''
    );

COMMIT;
