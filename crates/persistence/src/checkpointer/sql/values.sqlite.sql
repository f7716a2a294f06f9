SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint,
    metadata, NULL, NULL, NULL
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, CAST(coalesce(
        CASE v.type WHEN 'real' THEN p.checkpoint -> v.fullkey END, v.value
    ) AS TEXT) AS value
    FROM page p CROSS JOIN json_each(p.checkpoint, '$.channel_versions') v