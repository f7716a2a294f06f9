BEGIN IMMEDIATE;

SELECT 1 FROM agent_search_progress;

SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1;

SELECT 1 FROM threads WHERE thread_id = $1;

SELECT 1 FROM agent_conversations WHERE id = $1;

SELECT id FROM agent_turns WHERE conversation_id = $1 AND status = 'running';

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ? LIMIT ?;

SELECT rowid, channel, type, blob FROM checkpoint_blobs WHERE thread_id = $1 AND (instr(blob, $2) > 0);

SELECT rowid, channel, type, blob FROM checkpoint_writes WHERE thread_id = $1 AND (instr(blob, $2) > 0);

SELECT rowid, '', '', checkpoint FROM checkpoints WHERE thread_id = $1 AND (instr(checkpoint, $2) > 0);

SELECT rowid, '', '', metadata FROM checkpoints WHERE thread_id = $1 AND (instr(metadata, $2) > 0);

SELECT rowid, '', '', events FROM agent_turn_events WHERE conversation_id = $1 AND (instr(events, $2) > 0);

SELECT rowid, name, type, blob FROM agent_turn_records WHERE conversation_id = $1 AND (instr(blob, $2) > 0);

SELECT rowid, '', '', input FROM agent_turns WHERE conversation_id = $1 AND (instr(input, $2) > 0);

SELECT rowid, '', '', interrupt FROM agent_turns WHERE conversation_id = $1 AND (instr(interrupt, $2) > 0);

SELECT rowid, '', '', error FROM agent_turns WHERE conversation_id = $1 AND (instr(error, $2) > 0);

DELETE FROM agent_search WHERE rowid = (
    SELECT position FROM agent_messages WHERE conversation_id = $1 AND id = $2
);

SELECT "agent_messages"."conversation_id", "agent_messages"."id", "agent_messages"."role", "agent_messages"."content", "agent_messages"."parts", "agent_messages"."parent_id", "agent_messages"."is_chosen", "agent_messages"."checkpoint_id", "agent_messages"."metadata_", "agent_messages"."created_at", "agent_messages"."position" FROM "agent_messages" WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ? LIMIT ?;

UPDATE "agent_messages" SET "role" = ?, "content" = ?, "parts" = ?, "parent_id" = ?, "is_chosen" = ?, "checkpoint_id" = ?, "metadata_" = ?, "created_at" = ? WHERE "agent_messages"."conversation_id" = ? AND "agent_messages"."id" = ? RETURNING "conversation_id", "id", "role", "content", "parts", "parent_id", "is_chosen", "checkpoint_id", "metadata_", "created_at", "position";

UPDATE threads SET epoch = epoch + 1 WHERE thread_id = $1 AND epoch > 0;

UPDATE checkpoints SET metadata = json_set(metadata, '$.epoch', (
    SELECT epoch FROM threads WHERE thread_id = $1
))
WHERE thread_id = $1 AND checkpoint_ns = '' AND metadata -> '$.epoch' IS NOT NULL
    AND checkpoint_id = (
        SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''
    );

COMMIT;
