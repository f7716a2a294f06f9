UPDATE threads SET epoch = $2 WHERE thread_id = $1 AND epoch < $2;
