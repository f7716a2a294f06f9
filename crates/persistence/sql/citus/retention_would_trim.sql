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

SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty';

SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text,
    c.metadata::text, EXISTS (
        SELECT FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1;

SELECT (
    SELECT COALESCE(sum(pg_column_size(c.checkpoint) + pg_column_size(c.metadata)), 0)
    FROM checkpoints c JOIN jsonb_array_elements($2::jsonb) gone
    ON c.checkpoint_ns = gone ->> 0 AND c.checkpoint_id = gone ->> 1 WHERE c.thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(w.blob)), 0)
    FROM checkpoint_writes w JOIN jsonb_array_elements($2::jsonb) gone
    ON w.checkpoint_ns = gone ->> 0 AND w.checkpoint_id = gone ->> 1 WHERE w.thread_id = $1
)::bigint + (
    SELECT COALESCE(sum(pg_column_size(b.blob)), 0)
    FROM checkpoint_blobs b JOIN jsonb_array_elements($3::jsonb) gone
    ON b.checkpoint_ns = gone ->> 0 AND b.channel = gone ->> 1 AND b.version = gone ->> 2
    WHERE b.thread_id = $1
)::bigint;
