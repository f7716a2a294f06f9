SELECT c.id, c.checkpoint_thread_id,
    extract(epoch FROM statement_timestamp() - c.created_at)::float8,
    extract(epoch FROM statement_timestamp() - GREATEST(c.updated_at, (
        SELECT m.created_at FROM agent_messages m WHERE m.conversation_id = c.id
        ORDER BY m.position DESC LIMIT 1
    )))::float8,
    EXISTS (
        SELECT FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE c.id > $1 ORDER BY c.id LIMIT $2;

SELECT thread_id, extract(epoch FROM statement_timestamp() - updated_at)::float8,
    extract(epoch FROM statement_timestamp() - pruned_at)::float8
FROM threads WHERE thread_id IN (SELECT jsonb_array_elements_text($1::jsonb));

BEGIN;

SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1;

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT FROM agent_conversations WHERE id = $1 FOR UPDATE;

SELECT c.id, c.checkpoint_thread_id,
    extract(epoch FROM statement_timestamp() - c.created_at)::float8,
    extract(epoch FROM statement_timestamp() - GREATEST(c.updated_at, (
        SELECT m.created_at FROM agent_messages m WHERE m.conversation_id = c.id
        ORDER BY m.position DESC LIMIT 1
    )))::float8,
    EXISTS (
        SELECT FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE c.id = $1;

SELECT thread_id, extract(epoch FROM statement_timestamp() - updated_at)::float8,
    extract(epoch FROM statement_timestamp() - pruned_at)::float8
FROM threads WHERE thread_id IN (SELECT jsonb_array_elements_text($1::jsonb));

SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = $1), (
    SELECT COALESCE(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(blob)), 0) FROM checkpoint_writes WHERE thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(blob)), 0) FROM checkpoint_blobs WHERE thread_id = $1
)::bigint;

SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND status = 'running';

DELETE FROM checkpoints WHERE thread_id = $1;

DELETE FROM checkpoint_blobs WHERE thread_id = $1;

DELETE FROM checkpoint_writes WHERE thread_id = $1;

DELETE FROM threads WHERE thread_id = $1;

DELETE FROM agent_idempotency_keys WHERE conversation_id = $1;

DELETE FROM agent_conversations WHERE id = $1;

COMMIT;
