"""Prints what LangGraph's own savers read from a database, as JSON.

describe.py URL stored|decoded CHANNEL...

`stored` shows values as type and bytes, `decoded` as the Python objects that they are. Each checkpoint
comes with the delta history of the channels named. The sync and the async saver must read the same.
"""

import asyncio
import json
import sys

from langgraph.checkpoint.base import writes_sort_key
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot
from langgraph.types import Send

MIGRATED_SENDS = "migrated sends"


class Stored:
    """A serializer that leaves values as they are stored."""

    def dumps_typed(self, sends):
        return MIGRATED_SENDS, sends

    def loads_typed(self, typed):
        tag, content = typed
        if tag == MIGRATED_SENDS:
            return content
        return {"type": tag, "hex": bytes(content).hex()}


class WithPlaces:
    """Keeps the path and the index of a pending write, which the savers use for the order only."""

    def _load_writes(self, writes):
        rows = sorted(
            writes or [],
            key=lambda row: writes_sort_key(row[4].decode(), row[0].decode(), int(row[5])),
        )
        return [
            [task, path.decode(), int(index), channel, value]
            for (task, channel, value), (*_, path, index) in zip(
                super()._load_writes(writes), rows, strict=True
            )
        ]


class SyncSaver(WithPlaces, PostgresSaver):
    pass


class AsyncSaver(WithPlaces, AsyncPostgresSaver):
    pass


def describe(found, histories):
    checkpoint = found.checkpoint
    sends = []
    if checkpoint["v"] < 4 and TASKS in checkpoint["channel_values"]:
        sends = checkpoint["channel_values"].pop(TASKS)
        del checkpoint["channel_versions"][TASKS]
    return {
        "checkpoint_ns": found.config["configurable"]["checkpoint_ns"],
        "parent": found.parent_config and found.parent_config["configurable"]["checkpoint_id"],
        "checkpoint": checkpoint,
        "metadata": found.metadata,
        "pending_writes": found.pending_writes,
        "pending_sends": sends,
        "histories": histories,
    }


def plain(value):
    """What JSON does not know."""
    match value:
        case bytes():
            return {"bytes": value.hex()}
        case Send(node=node, arg=arg):
            return {"node": node, "arg": arg}
        case _:
            raise TypeError(f"unexpected in a checkpoint: {value!r}")


def named(value):
    """A snapshot is a tuple, which JSON would take for a list."""
    match value:
        case _DeltaSnapshot(value=inner):
            return {"snapshot": inner}
        case dict():
            return {key: named(inner) for key, inner in value.items()}
        case list() | tuple():
            return [named(inner) for inner in value]
        case _:
            return value


def read_sync(url, serde, threads, channels):
    with PostgresSaver.from_conn_string(url) as official:
        saver = SyncSaver(official.conn, serde=serde)
        described = {}
        for thread in threads:
            found = list(saver.list({"configurable": {"thread_id": thread}}))
            for item in found:
                assert saver.get_tuple(item.config) == item
            described[thread] = [
                describe(item, saver.get_delta_channel_history(config=item.config, channels=channels))
                for item in found
            ]
        return described


async def read_async(url, serde, threads, channels):
    async with AsyncPostgresSaver.from_conn_string(url) as official:
        await official.setup()
        saver = AsyncSaver(official.conn, serde=serde)
        described = {}
        for thread in threads:
            config = {"configurable": {"thread_id": thread}}
            found = [item async for item in saver.alist(config)]
            for item in found:
                assert await saver.aget_tuple(item.config) == item
            described[thread] = [
                describe(
                    item,
                    await saver.aget_delta_channel_history(config=item.config, channels=channels),
                )
                for item in found
            ]
        return described


def main(url, values, *channels):
    serde = {"stored": Stored, "decoded": JsonPlusSerializer}[values]()
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        rows = saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints").fetchall()
    threads = [row["thread_id"] for row in rows]
    described = read_sync(url, serde, threads, channels)
    assert described == asyncio.run(read_async(url, serde, threads, channels))
    print(json.dumps(named(described), default=plain))


if __name__ == "__main__":
    main(*sys.argv[1:])
