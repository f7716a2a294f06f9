-- {threads} threads, written at random times.
INSERT INTO threads (thread_id, updated_at)
SELECT md5('other' || thread)::uuid::text, timestamptz '2026-01-01' + random() * interval '300 days'
FROM generate_series(1, {threads}) thread;
