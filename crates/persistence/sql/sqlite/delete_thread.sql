BEGIN IMMEDIATE;

SELECT 1 FROM threads WHERE thread_id = $1;

DELETE FROM checkpoints WHERE thread_id = $1;

DELETE FROM checkpoint_blobs WHERE thread_id = $1;

DELETE FROM checkpoint_writes WHERE thread_id = $1;

DELETE FROM threads WHERE thread_id = $1;

COMMIT;
