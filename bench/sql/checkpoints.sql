-- {threads} threads with {checkpoints} checkpoints each, written in turn, in the shape of LangGraph: a
-- new value of `messages` each, one value of `context` for all, and pending writes of the last one.
CREATE TEMPORARY TABLE place AS
SELECT md5('{name}' || thread)::uuid::text AS thread, number,
    '1f0a1b2c-3d4e-6f70-8123-' || lpad(to_hex(number), 12, '0') AS id,
    CASE WHEN number > 1 THEN '1f0a1b2c-3d4e-6f70-8123-' || lpad(to_hex(number - 1), 12, '0') END AS parent,
    lpad(number::text, 32, '0') || '.0123456789012345' AS version
FROM (
    SELECT number, thread
    FROM generate_series(1, {checkpoints}) number, generate_series(1, {threads}) thread
    ORDER BY number, thread
) ordered;

INSERT INTO threads (thread_id, updated_at)
SELECT thread, timestamptz '2026-01-01' + random() * interval '300 days' FROM place WHERE number = 1;

INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT thread, '', id, parent,
    format('{"v": 4, "id": "%s", "ts": "2026-01-01T00:00:00.000000+00:00", "channel_values": {},
        "channel_versions": {"messages": "%s", "context": "00000000000000000000000000000001.0123456789012345", "branch:to:agent": "%s"},
        "versions_seen": {"__input__": {}, "agent": {"messages": "%s", "branch:to:agent": "%s"}, "tools": {"messages": "%s"}},
        "updated_channels": ["branch:to:agent", "messages"]}',
        id, version, version, version, version, version)::jsonb,
    format('{"source": "loop", "step": %s, "parents": {}}', number)::jsonb
FROM place;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT thread, '', 'messages', version, 'msgpack', convert_to(repeat(md5(thread || id), 12), 'UTF8')
FROM place;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT thread, '', 'context', version, 'msgpack', '\x81a46c616e67a2656e'
FROM place WHERE number = 1;

INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob)
SELECT thread, '', id, '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9', idx, 'messages', 'msgpack', '\xa568656c6c6f'
FROM place, generate_series(0, 1) idx
WHERE number = {checkpoints};

DROP TABLE place;
