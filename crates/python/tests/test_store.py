"""The store: what LangGraph's own do, in one database with the saver."""

import asyncio
import itertools
import os
import time
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.graph import START, StateGraph
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore
from langgraph.store.postgres.aio import AsyncPostgresStore
from typing_extensions import TypedDict
from yai_agentkit import AgentkitSaver, AgentkitStore

SECONDS = 60


@pytest.fixture
def store(saver):
    return AgentkitStore.beside(saver)


def keys(items):
    return [item.key for item in items]


def test_a_store_keeps_items_beside_the_saver(saver, store):
    store.put(("users", "ada"), "prefs", {"theme": "dark", "size": 12, "big": 2**70})
    item = store.get(("users", "ada"), "prefs")
    assert item.value == {"theme": "dark", "size": 12, "big": 2**70}
    assert (item.namespace, item.key) == (("users", "ada"), "prefs")
    assert item.created_at == item.updated_at and item.created_at.tzinfo is not None
    store.put(("users", "ada"), "prefs", {"theme": "light"})
    again = store.get(("users", "ada"), "prefs")
    assert again.value == {"theme": "light"}
    assert again.created_at == item.created_at < again.updated_at
    [found] = store.search(("users",), filter={"theme": "light"}, query="ignored")
    assert found.value == again.value and found.score is None
    assert store.list_namespaces(prefix=("users",)) == [("users", "ada")]
    store.delete(("users", "ada"), "prefs")
    assert store.get(("users", "ada"), "prefs") is None
    assert list(saver.list(None)) == []


async def test_a_store_is_async_too(url):
    async with AgentkitStore.from_conn_string(url) as store:
        await asyncio.gather(*(store.aput(("n",), str(n), {"n": n}) for n in range(50)))
        found = await store.asearch(("n",), filter={"n": {"$gte": 9, "$lt": 12}}, limit=5)
        assert sorted(keys(found)) == ["10", "11", "9"]
        items = await asyncio.gather(*(store.aget(("n",), str(n)) for n in range(60)))
        assert [item.value["n"] for item in items if item] == list(range(50))
        await store.adelete(("n",), "9")
        assert await store.aget(("n",), "9") is None
        # The sync methods work within an event loop as well.
        assert store.get(("n",), "10").value == {"n": 10}
        assert await store.alist_namespaces(max_depth=1) == [("n",)]


def test_a_graph_reaches_its_store(saver, store):
    class State(TypedDict):
        text: str

    def remember(state, *, store):
        store.put(("notes",), state["text"], {"text": state["text"]})
        return {"text": str(len(store.search(("notes",))))}

    graph = StateGraph(State)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    graph = graph.compile(checkpointer=saver, store=store)
    for number in "12":
        place = {"configurable": {"thread_id": number}}
        assert graph.invoke({"text": number}, place) == {"text": number}


def test_what_no_store_takes_is_refused(store):
    for namespace in [("a.b",), ("a", ""), ("a", 1), ("a\0",)]:
        for op in [
            GetOp(namespace, "key"),
            PutOp(namespace, "key", {}),
            PutOp(namespace, "key", None),
            SearchOp(namespace),
            ListNamespacesOp((MatchCondition("suffix", namespace),)),
        ]:
            with pytest.raises(InvalidNamespaceError):
                store.batch([PutOp(("beside",), "key", {}), op])
    assert store.get(("beside",), "key") is None
    for op, error in [
        (PutOp(("a",), "key", {"nan": float("nan")}), ValueError),
        (PutOp(("a",), "key", {"set": {1}}), TypeError),
        (PutOp(("a",), "\0", {}), ValueError),
        (PutOp(("a",), "key", {}, ttl=-1), ValueError),
        (SearchOp(("a",), filter={"a": {"$in": [1]}}), ValueError),
        (SearchOp(("a",), limit=-1), ValueError),
    ]:
        with pytest.raises(error):
            store.batch([op])


def test_time_to_live_begins_anew_when_an_item_is_read(saver):
    seconds = 4
    store = AgentkitStore.beside(saver, ttl={"default_ttl": seconds / 60})
    for key in ["got", "found", "left"]:
        store.put(("ttl",), key, {"key": key})
    store.put(("ttl",), "kept", {}, ttl=None)
    ends = time.monotonic() + SECONDS
    while store.get(("ttl",), "left", refresh_ttl=False):
        assert time.monotonic() < ends
        store.get(("ttl",), "got")
        store.search(("ttl",), filter={"key": "found"})
        time.sleep(seconds / 20)
    assert sorted(keys(store.search(("ttl",)))) == ["found", "got", "kept"]
    assert store.sweep_ttl() == 1
    assert asyncio.run(store.asweep_ttl()) == 0

    reading = AgentkitStore.beside(saver, ttl={"default_ttl": 0.01, "refresh_on_read": False})
    reading.put(("short",), "key", {})
    while reading.get(("short",), "key"):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_store_sweeps_by_itself_until_it_is_closed(saver):
    """As users of LangGraph's stores start it: what has died is gone although nobody puts anything."""
    assert AgentkitStore.beside(saver).start_ttl_sweeper().result(SECONDS) is None

    store = AgentkitStore.beside(saver, ttl={"default_ttl": 0.001, "sweep_interval_minutes": 0.001})
    swept = []
    sweep, store.sweep_ttl = store.sweep_ttl, lambda: swept.append(sweep()) or swept[-1]
    store.put(("ttl",), "key", {})
    sweeper = store.start_ttl_sweeper()
    assert store.start_ttl_sweeper() is sweeper and not sweeper.done()
    ends = time.monotonic() + SECONDS
    while sum(swept) == 0:
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert store.stop_ttl_sweeper(SECONDS) and sweeper.done()
    count = len(swept)

    async def as_with_async_postgres_store():
        again = await store.start_ttl_sweeper()
        while len(swept) == count:
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
        again.cancel()
        return again

    assert asyncio.run(as_with_async_postgres_store()).cancelled()
    assert store.stop_ttl_sweeper(SECONDS)
    last = store.start_ttl_sweeper()
    store.close()
    assert last.done()
    assert store.stop_ttl_sweeper()


def test_a_sweeper_goes_on_where_the_database_fails(caplog):
    with AgentkitStore.from_conn_string("sqlite::memory:", ttl={"default_ttl": 1}) as store:
        swept = []

        def fail():
            swept.append(1)
            raise OSError("no database")

        store.sweep_ttl = fail
        sweeper = store.start_ttl_sweeper(0.001)
        ends = time.monotonic() + SECONDS
        while len(swept) < 3:
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert not sweeper.done()
    assert sweeper.done()
    assert "not deleted, for now" in caplog.text


def test_langgraphs_store_and_ours_share_a_table(postgres_url):
    with PostgresStore.from_conn_string(postgres_url) as theirs:
        theirs.setup()
        theirs.put(("old", "ü"), "theirs", {"n": 1, "list": [1, None]}, ttl=30)
    with AgentkitStore.from_conn_string(postgres_url) as ours:
        item = ours.get(("old", "ü"), "theirs")
        assert item.value == {"n": 1, "list": [1, None]}
        ours.put(("old", "ü"), "ours", {"n": 2}, ttl=60)
        ours.put(("old", "ü"), "theirs", {"n": 3})
        seen = {found.key: found for found in ours.search(("old",))}
    with PostgresStore.from_conn_string(postgres_url) as theirs:
        theirs.setup()
        assert {found.key: found for found in theirs.search(("old",))} == seen
        assert theirs.get(("old", "ü"), "ours").value == {"n": 2}
        assert theirs.list_namespaces() == [("old", "ü")]


def test_langgraphs_store_goes_on_in_a_table_of_ours(postgres_url):
    with AgentkitStore.from_conn_string(postgres_url) as ours:
        ours.put(("a",), "key", {"n": 1}, ttl=0.5)

    async def theirs():
        async with AsyncPostgresStore.from_conn_string(postgres_url) as store:
            await store.setup()
            assert (await store.aget(("a",), "key")).value == {"n": 1}
            await store.aput(("a",), "key", {"n": 2})

    asyncio.run(theirs())
    with AgentkitStore.from_conn_string(postgres_url) as ours:
        assert ours.get(("a",), "key").value == {"n": 2}
    with psycopg.connect(postgres_url) as connection:
        [(index,)] = connection.execute(
            "SELECT count(*) FROM pg_indexes WHERE tablename = 'store'"
        ).fetchall()
        assert index == 3


def test_a_store_outlives_no_fork_and_no_close(url):
    store = AgentkitStore.from_conn_string(url)
    store.put(("a",), "key", {})
    child = os.fork()
    if child == 0:
        try:
            store.get(("a",), "key")
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get(("a",), "key").value == {}
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.get(("a",), "key")


# Beside LangGraph's store in memory. There 1 is true, and what is no number can't be compared.
LABELS = ["a", "ab", "b", "*"]
namespaces = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3).map(tuple)
scalars = (
    st.none() | st.booleans() | st.integers(2, 4) | st.sampled_from([2.0, 2.5, -1.0])
    | st.sampled_from(["", "x", "2", 'a"\\\n.é'])
)  # fmt: skip
fields = st.sampled_from(["f", "g", 'a".\\\n', "0"])
inner = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner, max_size=2),
    max_leaves=4,
)
operators = st.dictionaries(st.sampled_from(["$eq", "$ne"]), inner, min_size=1)
comparisons = st.dictionaries(
    st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from([2, 2.0, 2.5, 10]), min_size=1
)
items = st.builds(
    lambda value, n: {**value, "n": n},
    st.dictionaries(fields, inner, max_size=3),
    st.integers(1, 12) | st.sampled_from([2.5, 1e3]),
)
filters = st.none() | st.builds(
    lambda filter, n: filter | ({} if n is None else {"n": n}),
    st.dictionaries(fields, inner | operators, max_size=2),
    st.none() | comparisons,
)
patterns = st.tuples(st.sampled_from(["prefix", "suffix"]), namespaces).map(
    lambda given: MatchCondition(*given)
)
depths = st.none() | st.integers(1, 3)
operations = st.one_of(
    st.tuples(namespaces, st.sampled_from("kl")).map(lambda given: GetOp(*given)),
    st.tuples(namespaces, st.sampled_from("kl"), items).map(lambda given: PutOp(*given)),
    st.tuples(namespaces, st.sampled_from("kl"), items | st.none()).map(
        lambda given: PutOp(*given)
    ),
    st.tuples(namespaces | st.just(()), filters).map(lambda given: SearchOp(*given, limit=1000)),
    st.tuples(
        st.lists(patterns, max_size=2).map(tuple), depths, st.integers(1, 4), st.integers(0, 2)
    ).map(lambda given: ListNamespacesOp(*given)),
)  # fmt: skip
numbers = itertools.count()


def within(root, op):
    """The operation in a namespace of its own."""
    match op:
        case GetOp() | PutOp():
            return op._replace(namespace=(root, *op.namespace))
        case SearchOp():
            return op._replace(namespace_prefix=(root, *op.namespace_prefix))
    conditions = [
        condition._replace(path=(root, *condition.path))
        if condition.match_type == "prefix"
        else condition
        for condition in op.match_conditions
    ]
    conditions.append(MatchCondition("prefix", (root,)))
    depth = None if op.max_depth is None else op.max_depth + 1
    return op._replace(match_conditions=tuple(conditions), max_depth=depth)


def seen(answer):
    """Without times, which differ, and without the order of a search, which they decide."""
    match answer:
        case [SearchItem(), *_]:
            found = [seen(item) for item in answer]
            return sorted(found, key=lambda item: item[:2])
        case Item():
            return answer.namespace, answer.key, answer.value
    return answer


@settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.lists(operations, min_size=1, max_size=4), min_size=2, max_size=10))
def test_random_batches_do_the_same_as_in_memory(store, batches):
    root, theirs = f"root {next(numbers)}", InMemoryStore()
    for number, batch in enumerate(batches):
        batch = [within(root, op) for op in batch]
        # It lists namespaces that were only asked for, or are empty again.
        for namespace in [name for name, held in theirs._data.items() if not held]:
            del theirs._data[namespace]
        lists = [op for op in batch if isinstance(op, ListNamespacesOp)]
        listed = [theirs.batch([op])[0] for op in lists]
        others = [op for op in batch if not isinstance(op, ListNamespacesOp)]
        expected = theirs.batch(others)
        batch = lists + others
        if number % 2:
            answers = asyncio.run(store.abatch(batch))
        else:
            answers = store.batch(batch)
        assert [seen(answer) for answer in answers] == [
            seen(answer) for answer in listed + expected
        ]


def test_pages_of_a_search_come_in_the_order_of_time(store):
    for number in range(7):
        store.put(("page",), str(number), {"n": number})
        time.sleep(0.002)
    store.put(("page",), "0", {"n": 7})
    pages = [keys(store.search(("page",), limit=3, offset=offset)) for offset in (0, 3, 6)]
    assert pages == [["0", "6", "5"], ["4", "3", "2"], ["1"]]
    newest = store.get(("page",), "0")
    assert newest.updated_at - newest.created_at > timedelta(0)
