DELETE FROM threads WHERE 1 = 0;

SELECT count(*)
FROM (SELECT set_config('work_mem', '64kB', true) AS memory OFFSET 0) small,
    LATERAL generate_series(length(memory), 10000);
