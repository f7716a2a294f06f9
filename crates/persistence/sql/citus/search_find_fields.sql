BEGIN;

SELECT reached, set_config('jit', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)
FROM agent_search_progress;

SELECT c.id, NULL, c.position, c.title, c.metadata_ FROM agent_conversations c
WHERE c.position > $1 AND c.position < $2 AND c.owner = $3
ORDER BY c.position DESC LIMIT $4;

SELECT c.id, NULL::uuid, c.position, c.title, c.metadata_ FROM (
    SELECT s.conversation_id, s.position FROM agent_search s
    WHERE s.position < 0 AND s.position > -$1 AND s.keys && $2::bigint[] AND s.keys && $3::bigint[] AND s.keys && $4::bigint[]
    ORDER BY s.position OFFSET 0
) f CROSS JOIN LATERAL (
    SELECT c.id, c.position, c.title, c.metadata_ FROM agent_conversations c
    WHERE c.id = f.conversation_id AND c.position = -f.position
        AND ($5::text IS NULL OR c.owner = $5) OFFSET 0
) c
LIMIT $6;

COMMIT;
