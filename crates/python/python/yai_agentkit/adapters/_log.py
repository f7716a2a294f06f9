from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from langgraph.store.base import Op, PutOp, SearchItem, SearchOp

from yai_agentkit._store import AgentkitStore

ALL = 2**31 - 1


class Log:
    """Entries in the order in which they were stored: those of one `append` all or none.

    A search has the last batch first, and within one the least key: so the last entry has it.
    """

    def __init__(self, store: AgentkitStore, *labels: str) -> None:
        self._store = store
        self.namespace = tuple(map(label, labels))

    def appending(self, entries: Sequence[Any]) -> list[Op]:
        """What stores them, for a batch."""
        batch = uuid.uuid4().hex
        return [
            PutOp(self.namespace, f"{batch}-{len(entries) - place:09}", {"entry": entry}, index=False)
            for place, entry in enumerate(entries)
        ]

    def reading(self, limit: int | None = None) -> SearchOp:
        """What finds the last entries, for a batch."""
        return SearchOp(self.namespace, limit=ALL if limit is None else max(limit, 0))

    async def append(self, entries: Sequence[Any]) -> None:
        await batch(self._store, self.appending(entries))

    async def last(self, limit: int | None = None) -> list[Any]:
        """The last entries, the oldest of them first."""
        [found] = await batch(self._store, [self.reading(limit)])
        return entries(found)

    async def pop(self) -> Any | None:
        """Take the last entry away."""
        [found] = await batch(self._store, [self.reading(1)])
        await batch(self._store, deleting(found))
        return next(iter(entries(found)), None)

    async def clear(self) -> None:
        [found] = await batch(self._store, [self.reading()])
        await batch(self._store, deleting(found))


async def batch(store: AgentkitStore, ops: Iterable[Op]) -> list[Any]:
    """The answers of operations, each of the type of its operation."""
    return list(await store.abatch(ops))


def entries(found: Any) -> list[Any]:
    """What was appended, of what `reading` has found."""
    return [item.value["entry"] for item in reversed(found)]


def deleting(found: Any) -> list[Op]:
    """What deletes what was found, for a batch."""
    items: list[SearchItem] = found
    return [PutOp(item.namespace, item.key, None) for item in items]


def label(name: str) -> str:
    """A name as a label, which has no point and is not empty."""
    escaped = name.replace("%", "%25").replace(".", "%2E").replace("\0", "%00")
    return escaped or "%"
