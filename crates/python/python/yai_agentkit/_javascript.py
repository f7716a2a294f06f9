from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from yai_agentkit._saver import AgentkitSaver, _number_after
from yai_agentkit._serializer import DataSerializer

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from yai_agentkit._native import Engine


class JavaScriptSaver(AgentkitSaver):
    """An `AgentkitSaver` whose threads LangGraph.js reads and goes on with, on PostgreSQL.

    LangGraph.js reads JSON only, nothing that is inline in a checkpoint, and counts versions by
    number. What Python's savers write, LangGraph's own included, it can't read. This one writes as
    it does; Python's savers read that too.

    A state may hold what JSON has, bytes, and LangChain's messages; all else is a `TypeError`.
    Tuples come back as lists, and keys of a dict as strings.
    """

    _stores_all_apart = True

    def __init__(self, engine: Engine, *, serde: SerializerProtocol | None = None) -> None:
        super().__init__(engine, serde=serde or _JavaScriptSerializer())

    def get_next_version(self, current: str | int | float | None, channel: None) -> Any:
        """The number after `current`, with a random part against clashes."""
        return super().get_next_version(0 if current is None else current, channel)


class _JavaScriptSerializer(DataSerializer):
    """Writes values as LangGraph.js's serializer does, and reads them and all of Python's."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if isinstance(obj, (bytes, bytearray)):
            return "bytes", bytes(obj)
        if isinstance(obj, _DeltaSnapshot):
            obj = {"lc": 2, "type": "delta_snapshot", "value": obj.value}
        text = json.dumps(obj, default=_encoded, ensure_ascii=False, allow_nan=False)
        # Half a character is no UTF-8, but has an escape.
        return "json", text.encode(errors="backslashreplace")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        value = super().loads_typed(data)
        return _decoded(value) if data[0] == "json" else value


def _encoded(value: object) -> dict[str, Any]:
    match value:
        case BaseMessage():
            # Its kwargs are values still, which come here in their turn.
            message = {**value.to_json()}
            return {**message, "id": ["langchain_core", "messages", type(value).__name__]}
        case bytes() | bytearray():
            return _constructor(["Uint8Array"], list(value))
    # These two are for Python alone: a task has another id in each language. The package that has
    # them is no dependency of this one.
    module, name = type(value).__module__, type(value).__name__
    match module, name, value:
        case "langgraph.types", "Send", object(node=node, arg=arg, timeout=None):
            return _constructor(["langgraph", "types", "Send"], node, arg)
        case "langgraph.types", "Interrupt", object(value=asked, id=id, response_schema=None):
            return _constructor(["langgraph", "types", "Interrupt"], asked, id)
    raise TypeError(f"LangGraph.js has no form for a {type(value).__name__}")


def _constructor(id: list[str], *arguments: object) -> dict[str, Any]:
    return {"lc": 2, "type": "constructor", "id": id, "args": arguments, "kwargs": {}}


def _decoded(value: Any) -> Any:
    match value:
        case {"lc": 2, "type": "undefined"}:
            return None
        case {"lc": 2, "type": "constructor", "id": ["Uint8Array"], "args": [[*numbers]]}:
            return bytes(numbers)
        case {"lc": 2, "type": "delta_snapshot", "value": inner}:
            return _DeltaSnapshot(_decoded(inner))
        case dict():
            return {key: _decoded(inner) for key, inner in value.items()}
        case list():
            return [_decoded(inner) for inner in value]
    return value
