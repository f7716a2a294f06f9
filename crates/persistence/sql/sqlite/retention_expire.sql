SELECT c.id, c.checkpoint_thread_id,
    unixepoch('now', 'subsec') - unixepoch(c.created_at, 'subsec'),
    unixepoch('now', 'subsec') - max(unixepoch(c.updated_at, 'subsec'), COALESCE((
        SELECT unixepoch(m.created_at, 'subsec') FROM agent_messages m
        WHERE m.conversation_id = c.id ORDER BY m.position DESC LIMIT 1
    ), 0)),
    EXISTS (
        SELECT 1 FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT 1 FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE c.id > $1 ORDER BY c.id LIMIT $2;

SELECT thread_id, unixepoch('now', 'subsec') - unixepoch(updated_at, 'subsec'),
    unixepoch('now', 'subsec') - pruned_at
FROM threads WHERE thread_id IN (SELECT value FROM json_each($1));

BEGIN IMMEDIATE;

SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1;

SELECT 1 FROM threads WHERE thread_id = $1;

SELECT 1 FROM agent_conversations WHERE id = $1;

SELECT c.id, c.checkpoint_thread_id,
    unixepoch('now', 'subsec') - unixepoch(c.created_at, 'subsec'),
    unixepoch('now', 'subsec') - max(unixepoch(c.updated_at, 'subsec'), COALESCE((
        SELECT unixepoch(m.created_at, 'subsec') FROM agent_messages m
        WHERE m.conversation_id = c.id ORDER BY m.position DESC LIMIT 1
    ), 0)),
    EXISTS (
        SELECT 1 FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT 1 FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE c.id = ?;

SELECT thread_id, unixepoch('now', 'subsec') - unixepoch(updated_at, 'subsec'),
    unixepoch('now', 'subsec') - pruned_at
FROM threads WHERE thread_id IN (SELECT value FROM json_each($1));

SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = $1), (
    SELECT COALESCE(sum(octet_length(checkpoint) + octet_length(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0) FROM checkpoint_writes WHERE thread_id = $1
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0) FROM checkpoint_blobs WHERE thread_id = $1
);

SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND status = 'running';

DELETE FROM checkpoints WHERE thread_id = $1;

DELETE FROM checkpoint_blobs WHERE thread_id = $1;

DELETE FROM checkpoint_writes WHERE thread_id = $1;

DELETE FROM threads WHERE thread_id = $1;

DELETE FROM agent_idempotency_keys WHERE conversation_id = $1;

DELETE FROM agent_conversations WHERE id = $1;

COMMIT;
