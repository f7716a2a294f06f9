BEGIN;

SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1;

SELECT FROM threads WHERE thread_id = $1 FOR UPDATE;

SELECT FROM agent_conversations WHERE id = $1 FOR UPDATE;

SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND status = 'running';

DELETE FROM checkpoints WHERE thread_id = $1;

DELETE FROM checkpoint_blobs WHERE thread_id = $1;

DELETE FROM checkpoint_writes WHERE thread_id = $1;

DELETE FROM threads WHERE thread_id = $1;

DELETE FROM agent_idempotency_keys WHERE conversation_id = $1;

DELETE FROM agent_conversations WHERE id = $1;

COMMIT;
