INSERT INTO agent_tasks AS t (name, owner, leased_until)
VALUES ($1, $2, statement_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
WHERE t.owner = excluded.owner OR t.leased_until <= statement_timestamp();
