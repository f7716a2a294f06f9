"""The store's searches by meaning and by words; PostgreSQL with pgvector is the server's of a wheel."""

import asyncio
import itertools
import os
import random
import time
from collections import Counter

import psycopg
import pytest
from conftest import at, new_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore
from yai_agentkit import AgentkitStore

LETTERS = "abcdefgh"


def embed(texts):
    """How often each letter is in a text."""
    return [[float(text.count(letter)) for letter in LETTERS] for text in texts]


async def aembed(texts):
    await asyncio.sleep(0)
    return embed(texts)


def index(**more):
    exact = {"vector_type": "vector"}
    return {
        "dims": len(LETTERS), "embed": embed, "fields": ["text"], "ann_index_config": exact, **more
    }  # fmt: skip


@pytest.fixture
def pgvector_url():
    with new_database("pgvector") as name:
        yield at("pgvector", name)


@pytest.fixture(params=["pgvector", "sqlite"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/agentkit.db"
    else:
        with new_database("pgvector") as name:
            yield at("pgvector", name)


def keys(items):
    return [item.key for item in items]


def test_what_is_put_is_found_by_its_meaning(url):
    with AgentkitStore.from_conn_string(url, index=index()) as store:
        store.setup()
        store.put(("notes",), "a", {"text": "aaa", "n": 1})
        store.put(("notes",), "ab", {"text": "ab", "n": 2})
        store.put(("notes", "old"), "b", {"text": "b", "n": 3})
        store.put(("notes",), "hidden", {"text": "aaa"}, index=False)
        store.put(("notes",), "title", {"title": "h"}, index=["title"])
        found = store.search(("notes",), query="aa")
        assert keys(found) == ["a", "ab", "title", "b"]
        assert found[0].score == pytest.approx(1.0) and found[-1].score == pytest.approx(0.0)
        assert keys(store.search(("notes",), query="h", limit=1)) == ["title"]
        assert keys(store.search(("notes", "old"), query="a")) == ["b"]
        assert keys(store.search(("notes",), query="a", filter={"n": {"$gt": 1}})) == ["ab", "b"]
        # Nothing is asked by an empty query.
        assert {item.score for item in store.search(("notes",), query="")} == {None}
        store.put(("notes",), "a", {"text": "hh"})
        assert keys(store.search(("notes",), query="a"))[0] == "ab"
        store.delete(("notes",), "ab")
        assert "ab" not in keys(store.search(("notes",), query="a"))


async def test_async_functions_embed_too(url):
    async with AgentkitStore.from_conn_string(url, index=index(embed=aembed)) as store:
        await asyncio.gather(
            *(store.aput(("n",), str(n), {"text": LETTERS[n] * (n + 1)}) for n in range(8))
        )
        found = await asyncio.gather(*(store.asearch(("n",), query=q, limit=1) for q in LETTERS))
        assert [keys(items) for items in found] == [[str(n)] for n in range(8)]


def test_words_are_found_and_fused_with_meanings(url):
    with AgentkitStore.from_conn_string(url, index={"search": "text"}) as store:
        store.put(("n",), "1", {"text": "rye bread", "more": ["and cheese"]})
        store.put(("n",), "2", {"text": "a cabbage"})
        assert keys(store.search(("n",), query="CHEESE cake")) == ["1"]
        assert store.search(("n",), query="xyz") == []
    with AgentkitStore.from_conn_string(url, index=index(search="hybrid")) as store:
        store.put(("n",), "3", {"text": "hhh bread"})
        found = store.search(("n",), query="bread", limit=5)
        assert keys(found) == ["3", "1"] and found[0].score > found[1].score


def test_texts_are_embedded_together_and_once(url):
    calls = []

    def counted(texts):
        calls.append(list(texts))
        return embed(texts)

    with AgentkitStore.from_conn_string(url, index=index(embed=counted)) as store:
        texts = ["a", "b", "a", "c"]
        store.batch([PutOp(("n",), str(n), {"text": text}) for n, text in enumerate(texts)])
        assert calls == [["a", "b", "c"]]
        store.put(("m",), "again", {"text": "b"})
        store.put(("m",), "new", {"text": "bc"})
        for _ in range(2):
            store.batch([SearchOp(("n",), query="q"), SearchOp(("m",), query="q")])
        assert calls == [["a", "b", "c"], ["bc"], ["q"]]


def test_what_does_not_fit_is_refused(url):
    for wrong, name in [
        (index(search="magic"), "search"),
        (index(dims=0), "dims"),
        (index(distance_type="hamming"), "distance_type"),
        (index(ann_index_config={"kind": "ivfflat"}), "kind"),
        (index(ann_index_config={"vector_type": "bit"}), "vector_type"),
    ]:
        with pytest.raises(ValueError, match=name):
            AgentkitStore.from_conn_string(url, index=wrong)
    with AgentkitStore.from_conn_string(url, index=index(dims=3)) as store:
        with pytest.raises(ValueError, match="dims"):
            store.put(("n",), "key", {"text": "a"})
        assert store.get(("n",), "key") is None


def test_a_server_without_pgvector_says_so(postgres_url):
    with AgentkitStore.from_conn_string(postgres_url, index=index()) as store:
        with pytest.raises(ValueError, match="pgvector"):
            store.put(("n",), "key", {"text": "a"})


def test_a_table_of_another_length_is_refused(pgvector_url):
    with AgentkitStore.from_conn_string(pgvector_url, index=index()) as store:
        store.put(("n",), "key", {"text": "a"})
    longer = index(dims=9, embed=lambda texts: [[0.5] * 9 for _ in texts])
    with AgentkitStore.from_conn_string(pgvector_url, index=longer) as store:
        with pytest.raises(ValueError, match=r"vector\(8\), not of 9"):
            store.search(("n",), query="a")


@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
@pytest.mark.parametrize("distance_type", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_langgraphs_store_and_ours_share_vectors(pgvector_url, vector_type, distance_type, first):
    config = index(ann_index_config={"vector_type": vector_type}, distance_type=distance_type)

    def ours():
        return AgentkitStore.from_conn_string(pgvector_url, index=config)

    def theirs():
        return PostgresStore.from_conn_string(pgvector_url, index=config)

    stores = [theirs, ours] if first == "theirs" else [ours, theirs]
    for number, make in enumerate(stores):
        with make() as store:
            store.setup()
            store.put(("n",), f"{number} a", {"text": "aab"})
            store.put(("n",), f"{number} c", {"text": "cde"})
    found = []
    for make in stores:
        with make() as store:
            items = store.search(("n",), query="abc", limit=4)
            assert len(items) == 4
            found.append({item.key: round(item.score, 2) for item in items})
    assert found[0] == found[1]
    with psycopg.connect(pgvector_url) as connection:
        rows = connection.execute("SELECT v FROM vector_migrations ORDER BY v").fetchall()
        assert rows == [(0,), (1,), (2,)]


def test_what_langgraphs_store_puts_again_is_not_found_by_its_old_vector(pgvector_url):
    with AgentkitStore.from_conn_string(pgvector_url, index=index()) as ours:
        ours.put(("n",), "key", {"text": "a"})
        with PostgresStore.from_conn_string(pgvector_url, index=index()) as theirs:
            theirs.put(("n",), "key", {"text": "b"}, index=False)
            assert keys(theirs.search(("n",), query="a")) == ["key"]
        assert ours.search(("n",), query="a") == []


def test_a_search_among_many_uses_the_index_and_misses_little(pgvector_url):
    dims, count, asked = 32, 4000, 20
    generator = random.Random(7)
    vectors = {}

    def near_a_topic(texts):
        for text in texts:
            topic = random.Random(int(text.split()[0]) % 50)
            point = [topic.gauss(0, 1) + generator.gauss(0, 0.5) for _ in range(dims)]
            vectors.setdefault(text, point)
        return [vectors[text] for text in texts]

    config = {"dims": dims, "embed": near_a_topic, "fields": ["text"]}
    with AgentkitStore.from_conn_string(pgvector_url, index=config) as store:
        for start in range(0, count, 500):
            numbers = range(start, start + 500)
            store.batch([PutOp(("n",), str(n), {"text": f"{n} d", "n": n}) for n in numbers])
        with psycopg.connect(pgvector_url, autocommit=True) as connection:
            connection.execute("ANALYZE store, store_vectors")
        hits = 0
        for number in range(asked):
            query = f"{number} q"
            [point] = near_a_topic([query])
            exact = sorted(
                (text for text in vectors if text.endswith("d")),
                key=lambda text: -cosine(point, vectors[text]),
            )[:10]
            found = store.search(("n",), query=query)
            hits += len({item.value["text"] for item in found} & set(exact))
            few = store.search(("n",), query=query, filter={"n": {"$lt": 12}})
            assert len(few) == 10
        assert hits >= 0.95 * 10 * asked
    # What a connection has counted it tells when it is idle, or ends.
    ends = time.monotonic() + 60
    scans = 0
    with psycopg.connect(pgvector_url, autocommit=True) as connection:
        while not scans:
            assert time.monotonic() < ends
            [(scans,)] = connection.execute(
                "SELECT idx_scan FROM pg_stat_user_indexes"
                " WHERE indexrelname = 'store_vectors_embedding_idx'"
            ).fetchall()


def cosine(a, b):
    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


# Beside LangGraph's store in memory, which keeps old vectors of an item that is put again without
# them, and fails where two texts of a batch are equal.
numbers = itertools.count()
words = st.text(LETTERS, min_size=1, max_size=4)
values = st.builds(
    lambda texts, n: {"text": texts[0], "more": texts[1:], "n": n},
    st.lists(words, min_size=1, max_size=4, unique=True), st.integers(1, 3),
)  # fmt: skip
puts = st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefghij"), values | st.none())
searches = st.tuples(
    st.just(()) | st.sampled_from("xyz").map(lambda label: (label,)),
    words,
    st.none() | st.integers(1, 3),
)


@settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(puts, min_size=1, max_size=25), st.lists(searches, min_size=1, max_size=5))
def test_random_items_are_found_as_in_memory(url, puts, searches):
    config = index(fields=["text", "more[*]"])
    theirs = InMemoryStore(index=config)
    root = f"root {next(numbers)}"
    with AgentkitStore.from_conn_string(url, index=config) as ours:
        for store in (ours, theirs):
            for label, key, value in puts:
                store.delete((root, label), key)
                store.put((root, label), key, value)
        for prefix, query, n in searches:
            filter = None if n is None else {"n": n}
            found, expected = (
                store.search((root, *prefix), query=query, filter=filter, limit=100)
                for store in (ours, theirs)
            )
            scores = [item.score for item in found]
            assert scores == pytest.approx([item.score for item in expected], abs=1e-5)
            assert Counter(keys(found)) == Counter(keys(expected))
            assert {(item.namespace, item.key): item.value for item in found} == {
                (item.namespace, item.key): item.value for item in expected
            }
