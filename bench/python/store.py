"""What a store takes: AgentkitStore beside LangGraph's PostgresStore and AsyncPostgresStore.

    store.py URL [--rounds 7] [--seconds 3] [--clients 1,16] [--vectors 0] [--dims 384]

In each round every store puts, gets and searches for some seconds, one directly after the other, in an order that
turns; the first round warms up. Prints calls a second, and the median of the rounds' ratios to the better one of
LangGraph's, whose target is 3 at 16 clients. All have as many connections.

With `--vectors N` (on a PostgreSQL with pgvector) N items are put with vectors in clusters, and 200 searches by meaning
are timed one by one: the target is a 99th percentile of 20 ms with a recall@10 of 0.95, beside comparing all.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
import uuid
from contextlib import AsyncExitStack

import psycopg
from langgraph.store.base import PutOp
from langgraph.store.postgres import PostgresStore
from langgraph.store.postgres.aio import AsyncPostgresStore
from yai_agentkit import AgentkitStore

CONNECTIONS = 16
ITEMS = 50
VALUE = {"kind": "note", "text": "what somebody has said " * 20, "size": 7}


class Threads:
    """A sync store, each of whose calls has a thread."""

    def __init__(self, store):
        self.store = store

    async def aput(self, *given):
        await asyncio.to_thread(self.store.put, *given)

    async def aget(self, *given):
        return await asyncio.to_thread(self.store.get, *given)

    async def asearch(self, prefix, **given):
        return await asyncio.to_thread(self.store.search, prefix, **given)


async def put(store, namespace, number):
    await store.aput(namespace, f"{number}", VALUE)


async def get(store, namespace, number):
    item = await store.aget(namespace, f"{number % ITEMS}")
    assert item.value == VALUE


async def search(store, namespace, number):
    found = await store.asearch(namespace, filter={"kind": "note"}, limit=10)
    assert len(found) == 10


async def rate(call, store, clients, seconds):
    """Calls a second, each client in a namespace of its own."""
    places = [("bench", uuid.uuid4().hex) for _ in range(clients)]
    for place in places:
        for number in range(ITEMS if call is not put else 0):
            await put(store, place, number)
    done, begun = 0, time.monotonic()

    async def client(place):
        nonlocal done
        for number in itertools.count():
            if time.monotonic() > begun + seconds:
                return
            await call(store, place, number)
            done += 1

    await asyncio.gather(*map(client, places))
    return done / (time.monotonic() - begun)


async def compare(url, rounds, seconds, clients):
    pool = {"min_size": CONNECTIONS, "max_size": CONNECTIONS}
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(AgentkitStore.from_config(environ={
            "DATABASE_URL": url, "DB_MAX_CONNECTIONS": f"{CONNECTIONS}",
        }))  # fmt: skip
        ours.setup()
        aio = AsyncPostgresStore.from_conn_string(url, pool_config=dict(pool))
        sync = stack.enter_context(PostgresStore.from_conn_string(url, pool_config=dict(pool)))
        stores = {
            "AgentkitStore": ours,
            "AsyncPostgresStore": await stack.enter_async_context(aio),
            "PostgresStore": Threads(sync),
        }
        await stores["AsyncPostgresStore"].setup()
        for count, call in itertools.product(clients, [put, get, search]):
            measured = []
            for number in range(rounds + 1):
                names = list(stores)[number % 3 :] + list(stores)[: number % 3]
                rates = {name: await rate(call, stores[name], count, seconds) for name in names}
                if number:
                    measured.append(rates)
            better = [max(r["AsyncPostgresStore"], r["PostgresStore"]) for r in measured]
            pairs = zip(measured, better, strict=True)
            ratios = sorted(rates["AgentkitStore"] / theirs for rates, theirs in pairs)
            medians = {
                name: round(statistics.median(rates[name] for rates in measured)) for name in stores
            }
            ratio = round(statistics.median(ratios), 2)
            spread = [round(ratios[0], 2), round(ratios[-1], 2)]
            print(json.dumps({"call": call.__name__, "clients": count} | medians | {
                "ratio": ratio, "lowest and highest": spread,
            }), flush=True)  # fmt: skip


def clustered(dims, texts):
    """A text is the number of a point; those of one cluster lie together."""
    vectors = []
    for text in texts:
        number = int(text)
        cluster, point = random.Random(number % 1000), random.Random(number)
        vectors.append([cluster.gauss(0, 1) + point.gauss(0, 0.7) for _ in range(dims)])
    return vectors


async def by_meaning(url, count, dims):
    def embed(texts):
        return clustered(dims, texts)

    index = {"dims": dims, "embed": embed, "fields": ["text"]}
    namespace = ("vectors", uuid.uuid4().hex)
    async with AgentkitStore.from_conn_string(url, index=index) as store:
        begun = time.monotonic()
        for start in range(0, count, 500):
            numbers = range(start, min(start + 500, count))
            await store.abatch(
                [PutOp(namespace, f"{number}", {"text": f"{number}"}) for number in numbers]
            )
        filled = time.monotonic() - begun
        exact = psycopg.connect(url, autocommit=True)
        exact.execute("ANALYZE store, store_vectors")
        exact.execute("SET enable_indexscan = off")
        exact.execute("SET statement_timeout = 0")
        times, hits, asked = [], 0, 200
        for number in range(-20, asked):
            # Beside the points, and embedded before the time is taken.
            query = f"{count + number + 1000}"
            [point] = embed([query])
            await store.asearch(namespace, query=query, limit=1)
            begun = time.monotonic()
            found = await store.asearch(namespace, query=query)
            if number < 0:
                continue
            times.append(1000 * (time.monotonic() - begun))
            truth = exact.execute(
                "SELECT key FROM store_vectors WHERE prefix = %s"
                " ORDER BY embedding <=> %s::text::vector LIMIT 10",
                (".".join(namespace), json.dumps(point)),
            ).fetchall()
            hits += len({item.key for item in found} & {key for (key,) in truth})
        exact.close()
    times.sort()
    answer = {
        "vectors": count,
        "dims": dims,
        "puts a second": round(count / filled),
        "median ms": round(statistics.median(times), 2),
        "99th percentile ms": round(times[int(0.99 * len(times))], 2),
        "recall@10": round(hits / (10 * asked), 3),
    }
    print(json.dumps(answer), flush=True)


async def main(url, rounds, seconds, clients, vectors, dims):
    if rounds:
        await compare(url, rounds, seconds, [int(count) for count in clients.split(",")])
    if vectors:
        await by_meaning(url, vectors, dims)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--clients", default="1,16")
    parser.add_argument("--vectors", type=int, default=0)
    parser.add_argument("--dims", type=int, default=384)
    asyncio.run(main(**vars(parser.parse_args())))
