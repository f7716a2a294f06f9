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

SELECT 1 FROM threads WHERE thread_id = $1;

SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = $1 AND type <> 'empty';

SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint,
    c.metadata, EXISTS (
        SELECT 1 FROM checkpoint_writes w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id AND w.channel = '__pregel_tasks'
    )
FROM checkpoints c WHERE c.thread_id = $1;

SELECT (
    SELECT COALESCE(sum(octet_length(checkpoint) + octet_length(metadata)), 0)
    FROM checkpoints WHERE thread_id = $1 AND (checkpoint_ns, checkpoint_id) IN
        (SELECT value ->> 0, value ->> 1 FROM json_each($2))
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0)
    FROM checkpoint_writes WHERE thread_id = $1 AND (checkpoint_ns, checkpoint_id) IN
        (SELECT value ->> 0, value ->> 1 FROM json_each($2))
) + (
    SELECT COALESCE(sum(octet_length(blob)), 0)
    FROM checkpoint_blobs WHERE thread_id = $1 AND (checkpoint_ns, channel, version) IN
        (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($3))
);

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

DELETE FROM checkpoints WHERE thread_id = $1
AND (checkpoint_ns, checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = $1
AND (checkpoint_ns, parent_checkpoint_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND (checkpoint_ns, channel, version) IN
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($2));

DELETE FROM checkpoint_blobs WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM checkpoint_writes WHERE thread_id = $1
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

DELETE FROM threads WHERE thread_id = $1 AND epoch = 0
AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1);

UPDATE threads SET pruned_at = unixepoch('now', 'subsec') WHERE thread_id = $1;

COMMIT;
