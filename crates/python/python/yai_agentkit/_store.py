from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)

from yai_agentkit._index import AgentkitIndexConfig, Embedded, Index, NotEmbedded
from yai_agentkit._json import encoded
from yai_agentkit._native import Engine
from yai_agentkit._sweeper import Sweeper
from yai_agentkit._wait import wait

if TYPE_CHECKING:
    from typing_extensions import Self

    from yai_agentkit._native import _Item
    from yai_agentkit._saver import AgentkitSaver

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class AgentkitStore(BaseStore):
    """A LangGraph store on PostgreSQL or SQLite: what threads share, in namespaces.

    On PostgreSQL it keeps its items in the table of LangGraph's `PostgresStore`: each reads what the
    other wrote. One store serves sync and async code, from any number of threads and event loops.

    ```python
    from yai_agentkit import AgentkitSaver, AgentkitStore

    with AgentkitSaver.from_conn_string("sqlite::memory:") as checkpointer:
        store = AgentkitStore.beside(checkpointer)
        graph = builder.compile(checkpointer=checkpointer, store=store)
        store.put(("users", "ada"), "prefs", {"theme": "dark", "size": 12})
        store.search(("users",), filter={"size": {"$gt": 9}})
    ```

    A filter compares numbers as numbers and texts as texts; an object in it must have these fields
    and may have others, a list these items, and null is what is not there too. A namespace is found
    by whole labels. An item whose time to live is over is not found any more; what has died is
    deleted now and then by whoever puts an item that will die, or by `sweep_ttl`.

    A batch reads what was there before it, and writes all or nothing.

    With an `index` a `query` finds by meaning, by words, or by both:

    ```python
    store = AgentkitStore.beside(checkpointer, index={"dims": 384, "embed": embed, "fields": ["text"]})
    store.put(("notes",), "1", {"text": "Ada likes rye bread"})
    store.search(("notes",), query="what does she eat?")
    ```

    On PostgreSQL this needs pgvector 0.8 or later. Vectors stand in LangGraph's table, and are those of an
    item's last `put`. Texts are embedded together, and one that was embedded before is not again.
    Without an index `query` and `index` are ignored, as LangGraph's stores do.

    It raises what `AgentkitSaver` does, and `InvalidNamespaceError` for labels that no store takes.
    """

    supports_ttl = True

    def __init__(
        self,
        engine: Engine,
        *,
        index: AgentkitIndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        """For `beside`, `from_conn_string` and `from_config`."""
        self._engine = engine
        self._index = Index(index) if index else None
        self._store = engine.store(self._index.native if self._index else None)
        self.index_config = index
        self.embeddings = self._index.embeddings if self._index else None
        self.ttl_config = ttl
        self._sweeper: Sweeper | None = None

    @classmethod
    def beside(
        cls,
        saver: AgentkitSaver,
        *,
        index: AgentkitIndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> Self:
        """The store in the database of a saver, by its connections, which the saver closes.

        Args:
            saver: The saver.
            index: `dims`, `embed` and `fields` as LangGraph's, and `search`: how a `query` finds.
            ttl: `default_ttl` and `sweep_interval_minutes` in minutes, and `refresh_on_read`; by default
                items live for ever.
        """
        return cls(saver._engine, index=index, ttl=ttl)

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        index: AgentkitIndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> Self:
        """A store of its own on one database. See `AgentkitSaver.from_conn_string` and `beside`."""
        return cls(Engine({}, conn_string=conn_string), index=index, ttl=ttl)

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        index: AgentkitIndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> Self:
        """A store for AgentKit's configuration. See `AgentkitSaver.from_config` and `beside`."""
        toml = None if path is None else Path(path).read_text(encoding="utf-8")
        engine = Engine(dict(os.environ if environ is None else environ), toml)
        return cls(engine, index=index, ttl=ttl)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.display_url!r})"

    def __enter__(self) -> Self:
        wait(self._engine.connect())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._engine.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Wait for what is under way, then close the connections. A second time does nothing."""
        self.stop_ttl_sweeper()
        wait(self._engine.close())

    async def aclose(self) -> None:
        """Wait for what is under way, then close the connections. A second time does nothing."""
        await asyncio.to_thread(self.stop_ttl_sweeper)
        await self._engine.close()

    def setup(self) -> None:
        """Bring the tables up to date, which the first call of any method does too."""
        wait(self._engine.setup())
        wait(self._store.batch([]))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations together."""
        ops = list(ops)
        embedded = self._index.embed(ops) if self._index else NotEmbedded()
        return _answers(ops, wait(self._store.batch([_operation(op, embedded) for op in ops])))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations together."""
        ops = list(ops)
        embedded = await self._index.aembed(ops) if self._index else NotEmbedded()
        return _answers(ops, await self._store.batch([_operation(op, embedded) for op in ops]))

    def sweep_ttl(self) -> int:
        """Delete what has outlived its time, and return how much that was."""
        return wait(self._store.sweep())

    async def asweep_ttl(self) -> int:
        """Delete what has outlived its time. See `sweep_ttl`."""
        return await self._store.sweep()

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep in a thread every so many minutes, by default 5, until the store is closed or
        `stop_ttl_sweeper` is called.

        As with LangGraph's stores nothing happens without `ttl`, and a second time gives what runs. It
        is needed where nothing is put for long, and may be awaited.
        """
        sweeper = self._sweeper
        if sweeper is None or sweeper.done():
            config = self.ttl_config
            if not config:
                return Sweeper(None, 0)
            minutes = sweep_interval_minutes or config.get("sweep_interval_minutes") or 5
            self._sweeper = sweeper = Sweeper(self.sweep_ttl, 60 * minutes)
        return sweeper

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping, and return whether that took no more than so many seconds."""
        return self._sweeper is None or self._sweeper.stop(timeout)


def _operation(op: Op, embedded: Embedded | NotEmbedded) -> tuple[object, ...]:
    match op:
        case GetOp():
            return "get", _labels(op.namespace), op.key, op.refresh_ttl
        case PutOp(value=None):
            return "delete", _labels(op.namespace), op.key
        case PutOp():
            value = encoded("value", dict(op.value or {}))
            return "put", _labels(op.namespace), op.key, value, op.ttl, embedded.of_item(op)
        case SearchOp():
            prefix, filter = _labels(op.namespace_prefix), encoded("filter", op.filter or {})
            page = _count("limit", op.limit), _count("offset", op.offset)
            return "search", prefix, filter, *page, op.refresh_ttl, *embedded.of_search(op)
        case ListNamespacesOp():
            patterns = [
                (condition.match_type == "prefix", _labels(condition.path))
                for condition in op.match_conditions or ()
            ]
            page = _count("limit", op.limit), _count("offset", op.offset)
            return "namespaces", patterns, op.max_depth, *page
    raise ValueError(f"no operation of a store: {op!r}")


def _labels(namespace: Sequence[str]) -> list[str]:
    for label in namespace:
        if not isinstance(label, str) or not label or "." in label or "\0" in label:
            raise InvalidNamespaceError(
                f"{label!r} in {namespace!r}: a label is a text, not empty, without points"
                " and NUL characters"
            )
    return list(namespace)


def _count(name: str, count: int) -> int:
    if count < 0:
        raise ValueError(f"{name}: must not be negative, is {count}")
    return count


def _answers(ops: Sequence[Op], answers: Sequence[Any]) -> list[Result]:
    return [_answer(op, answer) for op, answer in zip(ops, answers, strict=True)]


def _answer(op: Op, answer: Any) -> Result:
    if isinstance(op, SearchOp):
        return [SearchItem(**_fields(item), score=item[5]) for item in answer]
    if isinstance(op, GetOp):
        return None if answer is None else Item(**_fields(answer))
    listed: Result = answer
    return listed


def _fields(item: _Item) -> dict[str, Any]:
    namespace, key, value, created_at, updated_at, _ = item
    return {
        "namespace": namespace,
        "key": key,
        "value": json.loads(value),
        "created_at": _EPOCH + timedelta(microseconds=created_at),
        "updated_at": _EPOCH + timedelta(microseconds=updated_at),
    }
