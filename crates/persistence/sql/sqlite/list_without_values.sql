WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2 ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns LIMIT $3
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    json_remove(checkpoint, '$.channel_values'), metadata
FROM page;
