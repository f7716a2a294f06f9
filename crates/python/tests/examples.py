"""Checkpoints with everything that LangGraph's format has."""

import uuid
from datetime import datetime, timezone
from decimal import Decimal

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import (
    ERROR,
    INTERRUPT,
    RESUME,
    SCHEDULED,
    TASKS,
    _DeltaSnapshot,
)
from langgraph.types import Interrupt, Send


def config(thread_id, checkpoint_id=None, namespace=""):
    configurable = {"thread_id": thread_id, "checkpoint_ns": namespace}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


VALUES = {
    "null": None,
    "text": '中文 🦀 \x01 "quoted" \\u0000 back\\slash',
    "empty": "",
    "true": True,
    "false": False,
    "integer": -42,
    "more than 64 bits": 10**40 + 1,
    "float": 0.1 + 0.2,
    "whole float": 3.0,
    "tiny": 5e-324,
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"\x01"),
    "list": [1, [2, None], {"three": 3}],
    "tuple": (1, 2),
    "dict": {"a": {1: "integer key"}},
    "set": {1, 2},
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "time": datetime(2024, 2, 29, 12, tzinfo=timezone.utc),
    "messages": [HumanMessage("hi", id="1"), AIMessage("你好", id="2")],
    "delta": _DeltaSnapshot(["a", "b"]),
}

WRITES = {
    "task-b": ("~0, b", [("messages", [HumanMessage("later", id="3")]), ("text", "a\0b")]),
    "task-a": ("~1, a", [(TASKS, Send("node", {"x": 1})), (TASKS, Send("node", 2))]),
    "task-c": ("", [(INTERRUPT, (Interrupt(value="go on?", id="i"),)), ("null", None)]),
    "task-d": ("", [(ERROR, "failed"), (SCHEDULED, None), (RESUME, ["yes"])]),
}


def checkpoint(values, versions, v=4):
    return {
        "v": v,
        "id": str(uuid6(clock_seq=1)),
        "ts": datetime.now(timezone.utc).isoformat(),
        "channel_values": dict(values),
        "channel_versions": dict(versions),
        "versions_seen": {"__input__": {}, "node": dict(list(versions.items())[:2])},
        "updated_channels": sorted(values),
    }


def metadata(step, **more):
    return {"source": "loop", "step": step, "parents": {"": "root"}, "run_id": "run", **more}


async def store(put, put_writes, thread_id, get_next_version):
    """Stores three checkpoints in a row, and one of a subgraph; returns their configurations."""
    versions = {channel: get_next_version(None, None) for channel in VALUES}
    first = checkpoint(VALUES, versions)
    run = config(thread_id) | {"metadata": {"user": "Ada", "nul": "a\0b", "depth": 2}}
    places = [await put(run, first, metadata(-1, nested={"big": 2**70, "list": [1.5]}), versions)]
    for task_id, (path, writes) in WRITES.items():
        await put_writes(places[0], writes, task_id, path)

    # A new value of one channel, no value any more of another.
    versions = versions | {
        name: get_next_version(versions[name], None) for name in ["list", "delta"]
    }
    values = {name: value for name, value in VALUES.items() if name not in ["set", "delta"]}
    second = checkpoint(values | {"list": ["new"]}, versions)
    new = {name: versions[name] for name in ["list", "delta"]}
    places.append(await put(places[0], second, metadata(0), new))
    await put_writes(places[1], [("delta", ["c"]), (TASKS, Send("old", 3))], "task", "path")

    # The format before 4, whose sends stand among the parent's writes.
    places.append(await put(places[1], checkpoint(values, versions, v=1), metadata(1), {}))
    nested = checkpoint({"text": "nested"}, {"text": 1})
    places.append(
        await put(config(thread_id, namespace="child:1"), nested, metadata(2), {"text": 1})
    )
    return places
