SELECT thread_id, parent_id, updated_at FROM threads WHERE (updated_at, thread_id) < ($2, $3)
ORDER BY updated_at DESC, thread_id DESC LIMIT $1;
