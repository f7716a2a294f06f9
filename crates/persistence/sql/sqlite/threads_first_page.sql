SELECT thread_id, parent_id, updated_at FROM threads
ORDER BY updated_at DESC, thread_id DESC LIMIT $1;
