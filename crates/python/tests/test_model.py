"""Random operations do the same to ours as to LangGraph's saver in memory."""

import asyncio
import itertools
import os

from examples import config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, TASKS

CHANNELS = ["a", "b", "中"]
THREADS = ["one", "two"]
NAMESPACES = ["", "child"]
# A task has one path: its id is made of it.
TASKS_AT = [("task-1", ""), ("task-2", "~1"), ("task-3", "~0")]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False) | st.text(max_size=5, alphabet=st.characters(codec="utf-8")) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy", max_size=2), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
place = st.tuples(st.sampled_from(THREADS), st.sampled_from(NAMESPACES))
index = st.integers(0, 20)
metadata = st.fixed_dictionaries(
    {"source": st.sampled_from(["loop", "input"]), "step": st.integers(-1, 2)},
    optional={"tag": st.sampled_from(["x", "a\0b"]), "nested": st.just({"deep": [1, {"two": 2}]})},
)
# Where one call mixes both kinds, LangGraph's savers differ among themselves.
writes = st.lists(st.tuples(st.sampled_from([*CHANNELS, TASKS]), values), max_size=3) | st.lists(
    st.tuples(st.sampled_from([ERROR, INTERRUPT]), values), max_size=3
)
operation = st.one_of(
    st.tuples(st.just("put"), place, index, st.dictionaries(st.sampled_from(CHANNELS), values), metadata),
    st.tuples(
        st.just("put_writes"), index, writes,
        st.sampled_from(TASKS_AT),
    ),
    st.tuples(st.just("get"), place, index, st.booleans()),
    st.tuples(
        st.just("list"), st.none() | place,
        st.sampled_from([None, {"step": 0}, {"source": "loop", "step": 1}]),
        st.none() | index, st.none() | st.integers(1, 3),
    ),
    st.tuples(st.just("history"), index),
    st.tuples(st.just("delete"), st.sampled_from(THREADS)),
)  # fmt: skip


numbers = itertools.count()


@settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(operation, min_size=3, max_size=25))
def test_random_operations_do_the_same_as_in_memory(saver, operations):
    # Each example has threads of its own, on the same database.
    asyncio.run(Run(saver, next(numbers)).play(operations))


class Run:
    def __init__(self, ours, number):
        self.savers = [ours, InMemorySaver()]
        self.number = number
        self.calls = itertools.count()
        self.checkpoints = itertools.count()
        self.stored = []

    async def call(self, saver, method, *arguments, **options):
        """By turns the sync method, which works within an event loop too, and the async one."""
        if next(self.calls) % 3 == 0:
            return getattr(saver, method)(*arguments, **options)
        return await getattr(saver, f"a{method}")(*arguments, **options)

    async def find(self, saver, *arguments, **options):
        if next(self.calls) % 3 == 0:
            return list(saver.list(*arguments, **options))
        return [found async for found in saver.alist(*arguments, **options)]

    async def play(self, operations):
        for name, *arguments in operations:
            await getattr(self, name)(*arguments)
        for thread in THREADS:
            await self.list((thread, None), None, None, None)

    def thread(self, name):
        return f"{name} {self.number}"

    def at(self, index):
        return self.stored[index % len(self.stored)] if self.stored else None

    async def agree(self, act):
        ours, theirs = [await act(saver) for saver in self.savers]
        assert ours == theirs
        return ours

    async def put(self, place, index, values, metadata):
        thread, namespace = self.thread(place[0]), place[1]
        line = [at for at in self.stored if key(at)[:2] == (thread, namespace)]
        parent = line[index % len(line)] if line else None
        before = (await self.savers[1].aget_tuple(parent)) if parent else None
        carried = before.checkpoint if before else {"channel_values": {}, "channel_versions": {}}
        new = {
            channel: self.savers[0].get_next_version(carried["channel_versions"].get(channel), None)
            for channel in values
        }
        checkpoint = {
            "v": 4,
            "id": f"{next(self.checkpoints):08}",
            "ts": "2024-01-01",
            "channel_values": {**carried["channel_values"], **values},
            "channel_versions": {**carried["channel_versions"], **new},
            "versions_seen": {"node": new},
            "updated_channels": sorted(values),
        }
        at = parent or config(thread, namespace=namespace)
        place = await self.agree(
            lambda saver: self.call(saver, "put", at, checkpoint, metadata, new)
        )
        self.stored.append(place)

    async def put_writes(self, index, writes, task):
        if at := self.at(index):
            await self.agree(lambda saver: self.call(saver, "put_writes", at, writes, *task))

    async def get(self, place, index, latest):
        at = config(self.thread(place[0]), namespace=place[1]) if latest else self.at(index)
        if at:
            await self.agree(lambda saver: self.call(saver, "get_tuple", at))

    async def list(self, place, filter, before, limit):
        # Without a place, LangGraph lists what other examples stored too.
        thread, namespace = place or (THREADS[0], None)
        at = {"configurable": {"thread_id": self.thread(thread)}}
        if namespace is not None:
            at["configurable"]["checkpoint_ns"] = namespace
        options = {"filter": filter, "before": None if before is None else self.at(before)}
        if namespace is not None:
            # Across namespaces a limit takes any, in memory.
            options["limit"] = limit

        async def listed(saver):
            found = await self.find(saver, at, **options)
            return sorted(found, key=lambda item: key(item.config), reverse=True)

        await self.agree(listed)

    async def history(self, index):
        if at := self.at(index):
            await self.agree(
                lambda saver: self.call(
                    saver, "get_delta_channel_history", config=at, channels=CHANNELS
                )
            )

    async def delete(self, thread):
        await self.agree(lambda saver: self.call(saver, "delete_thread", self.thread(thread)))
        self.stored = [at for at in self.stored if key(at)[0] != self.thread(thread)]


def key(at):
    place = at["configurable"]
    return place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"]
