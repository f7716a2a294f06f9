BEGIN;

SELECT reached, set_config('jit', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)
FROM agent_search_progress;

SELECT f.conversation_id, f.message_id, f.position FROM (
    SELECT s.conversation_id, s.message_id, abs(s.position) AS position FROM agent_search s
    WHERE s.position < $1 AND s.position > -$1 AND s.keys && $2::bigint[] AND s.keys && $3::bigint[]
    ORDER BY abs(s.position) DESC, s.message_id OFFSET 0
) f
WHERE (f.message_id IS NULL OR (
    SELECT true FROM agent_messages m
    WHERE m.id = f.message_id AND m.conversation_id = f.conversation_id
        AND m.position = f.position
)) AND ($5::text IS NULL OR (
    SELECT c.owner FROM agent_conversations c WHERE c.id = f.conversation_id
) = $5) AND (
    SELECT n.position FROM agent_search n
    WHERE n.conversation_id = f.conversation_id
        AND n.position > f.position - (f.message_id IS NULL)::integer
        AND n.keys @> ARRAY(
            SELECT n.position >> 14 << 40 | w FROM unnest($4::bigint[]) w
        )
        AND EXISTS (
            SELECT FROM agent_messages m
            WHERE m.id = n.message_id AND m.conversation_id = n.conversation_id
                AND m.position = n.position
        )
    ORDER BY n.position LIMIT 1
) IS NULL AND (
    SELECT t.position FROM agent_search t
    WHERE t.conversation_id = f.conversation_id AND t.position < -f.position
        AND t.keys @> ARRAY(
            SELECT -t.position >> 14 << 40 | w FROM unnest($4::bigint[]) w
        )
    LIMIT 1
) IS NULL
LIMIT $6;

COMMIT;
