"""Brings an empty database to an old version of LangGraph's schema, with the data of its time.

old_database.py URL VERSION
"""

import json
import sys
from datetime import UTC, datetime

import ormsgpack
import psycopg
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres.base import MIGRATIONS

INSERT_CHECKPOINT = """
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    VALUES (%s, %s, %s, %s, %s, %s)"""
INSERT_BLOB = """
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    VALUES (%s, %s, %s, %s, %s, %s)"""
INSERT_WRITE = """
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""


def migrate(connection, version):
    # As `setup()` does, which always goes to the last version.
    for v, migration in enumerate(MIGRATIONS[: version + 1]):
        connection.execute(migration)
        connection.execute("INSERT INTO checkpoint_migrations (v) VALUES (%s)", (v,))


def fill(connection, version):
    # Thread ids sort against the time at which the threads were last written to.
    for thread, format_version in [("c", 1), ("b", 2), ("a", 3)]:
        for namespace in ["", "child:11111111-1111-1111-1111-111111111111"]:
            write_history(connection, version, thread, namespace, format_version)


def write_history(connection, version, thread, namespace, format_version):
    parent = None
    for step in range(3):
        # The first savers counted versions by integers.
        count = step + 1
        number = count if format_version == 1 else f"{count:032}.{0.25 + count:016}"
        checkpoint_id = str(uuid6(clock_seq=step))
        checkpoint = {
            "v": format_version,
            "id": checkpoint_id,
            "ts": datetime.now(UTC).isoformat(),
            "channel_versions": {"messages": number, "gone": number},
            "versions_seen": {"__input__": {}, "node": {"messages": number}},
            "pending_sends": [],
        }
        metadata = {
            "source": "loop" if step else "input",
            "step": step - 1,
            "writes": {"node": {"messages": ["é 🦀"]}} if step else None,
            "parents": {},
            "ratio": 0.1,
        }
        connection.execute(
            INSERT_CHECKPOINT,
            (thread, namespace, checkpoint_id, parent, json.dumps(checkpoint), json.dumps(metadata)),
        )
        if version >= 2:
            messages = ormsgpack.packb([f"message {i}" for i in range(count)])
            row = (thread, namespace, "messages", str(number), "msgpack", messages)
            connection.execute(INSERT_BLOB, row)
        if version >= 4:
            # What the savers of the time wrote for a channel that has lost its value.
            row = (thread, namespace, "gone", str(number), "empty", None)
            connection.execute(INSERT_BLOB, row)
        if version >= 3:
            for task in ["task-2", "task-1"]:
                for index, channel in enumerate(["messages", "__pregel_tasks", "__pregel_tasks"]):
                    blob = json.dumps({"task": task, "index": index}).encode()
                    row = (thread, namespace, checkpoint_id, task, index, channel, "json", blob)
                    connection.execute(INSERT_WRITE, row)
        parent = checkpoint_id


if __name__ == "__main__":
    url, version = sys.argv[1:]
    # Autocommit, because an index is made concurrently outside of transactions only.
    with psycopg.connect(url, autocommit=True) as connection:
        migrate(connection, int(version))
        if int(version) >= 1:
            fill(connection, int(version))
