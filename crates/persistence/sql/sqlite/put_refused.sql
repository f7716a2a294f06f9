BEGIN IMMEDIATE;

UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2;

COMMIT;

SELECT epoch FROM threads WHERE thread_id = $1;
