"""LangGraph's own PostgreSQL savers and ours read from each other what they would from themselves."""

import json
import math
import re
from contextlib import asynccontextmanager
from enum import Enum, IntFlag
from pathlib import Path

import psycopg
import pytest
from examples import checkpoint, config, metadata, store
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from test_graph import PlainState, build, story_sync
from yai_agentkit import AgentkitSaver


class Sync:
    """The sync methods of a saver under the async names."""

    def __init__(self, saver):
        self.saver = saver
        self.get_next_version = saver.get_next_version

    async def aput(self, *arguments):
        return self.saver.put(*arguments)

    async def aput_writes(self, *arguments):
        return self.saver.put_writes(*arguments)

    async def aget_tuple(self, *arguments):
        return self.saver.get_tuple(*arguments)

    async def alist(self, *arguments, **options):
        for found in self.saver.list(*arguments, **options):
            yield found

    async def aget_delta_channel_history(self, **options):
        return self.saver.get_delta_channel_history(**options)


@asynccontextmanager
async def opened(kind, url, serde):
    if kind == "official sync":
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            saver.serde = serde
            yield Sync(saver)
    elif kind == "official async":
        async with AsyncPostgresSaver.from_conn_string(url, serde=serde) as saver:
            await saver.setup()
            yield saver
    else:
        async with AgentkitSaver.from_conn_string(url, serde=serde) as saver:
            yield Sync(saver) if kind == "ours sync" else saver


class Cipher:
    """No secret to anybody, but no serializer reads it without this."""

    def encrypt(self, plaintext):
        return "xor", bytes(byte ^ 0x5A for byte in plaintext)

    def decrypt(self, ciphername, ciphertext):
        assert ciphername == "xor"
        return self.encrypt(ciphertext)[1]


SERIALIZERS = {"plain": JsonPlusSerializer, "encrypted": lambda: EncryptedSerializer(Cipher())}


async def read(saver, places):
    """All that a saver's reading methods say of a thread."""
    thread = {"configurable": {"thread_id": places[0]["configurable"]["thread_id"]}}
    listed = [found async for found in saver.alist(thread)]
    filtered = []
    for filter in [{"step": 0}, {"nested": {"list": [1.5]}}, {"user": "Ada"}, {"step": "0"}]:
        filtered.append([found.config async for found in saver.alist(thread, filter=filter)])
    return {
        "list": listed,
        "tuples": [await saver.aget_tuple(place) for place in places],
        "latest": await saver.aget_tuple(config(thread["configurable"]["thread_id"])),
        "filtered": filtered,
        "before": [found async for found in saver.alist(thread, before=places[2], limit=1)],
        "histories": [
            await saver.aget_delta_channel_history(config=place, channels=["delta", "list", "no"])
            for place in places
        ],
    }


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("writer", ["official sync", "official async", "ours sync", "ours async"])
async def test_every_saver_reads_the_same_from(writer, serializer, postgres_url):
    serde = SERIALIZERS[serializer]()
    async with opened(writer, postgres_url, serde) as saver:
        places = await store(saver.aput, saver.aput_writes, "thread", saver.get_next_version)
    seen = {}
    for reader in ["official sync", "official async", "ours sync", "ours async"]:
        async with opened(reader, postgres_url, serde) as saver:
            seen[reader] = await read(saver, places)
    assert len(seen["official async"]["list"]) == 4
    for reader in ["official sync", "ours sync", "ours async"]:
        assert repr_of(seen[reader]) == repr_of(seen["official async"])
        assert seen[reader] == seen["official async"]


@pytest.mark.parametrize("reader", ["official sync", "official async"])
async def test_the_official_saver_reads_what_it_could_not_have_written(reader, postgres_url):
    """Inline, PostgreSQL's JSON would refuse these values or change them."""
    values = {
        "nul": "a\0b",
        "infinity": math.inf,
        "large": 4.036259327295849e16,
        "negative": -1e300,
        "nan": math.nan,
    }
    versions = dict.fromkeys(values, "1")
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        place = saver.put(config("thread"), checkpoint(values, versions), metadata(0), versions)
    async with opened(reader, postgres_url, JsonPlusSerializer()) as official:
        read = (await official.aget_tuple(place)).checkpoint["channel_values"]
    assert {name: repr(value) for name, value in read.items()} == {
        name: repr(value) for name, value in values.items()
    }


class Word(str, Enum):
    BLUE = "blue"


class Flag(IntFlag):
    ONE = 1


METADATA = {
    "enum": Word.BLUE,
    "flag": Flag.ONE,
    "tuple": (1, ("two", [3.0])),
    "zero": -0.0,
    "large": 1e16,
    "many digits": 2**70,
    "fraction": 0.1,
    "integral": 1.0,
    "true": True,
    "none": None,
    "text": "线程 🧵",
    "keys": {"1": {}},
}


async def test_metadata_come_back_as_from_the_official_saver(postgres_url, tmp_path):
    """They are JSON in LangGraph's own column, for its savers and filters; on SQLite they are no
    less."""
    described = {**metadata(0), **METADATA}
    read = []
    serde = JsonPlusSerializer()
    for kind, thread in [("official async", "1"), ("ours async", "2"), ("ours sync", "3")]:
        async with opened(kind, postgres_url, serde) as saver:
            place = await saver.aput(config(thread), checkpoint({}, {}), described, {})
            read.append((await saver.aget_tuple(place)).metadata)
    assert [repr_of(found) for found in read] == [repr_of(read[0])] * 3
    assert read[0]["enum"] == "blue" and read[0]["tuple"] == [1, ["two", [3.0]]]
    with AgentkitSaver.from_conn_string(f"sqlite:{tmp_path}/agentkit.db") as saver:
        place = saver.put(config("4"), checkpoint({}, {}), described, {})
        kept = {name: saver.get_tuple(place).metadata[name] for name in METADATA}
    assert repr_of(kept) == repr_of(json.loads(json.dumps(METADATA)))


async def test_what_is_encrypted_is_not_in_the_database(postgres_url):
    serde = EncryptedSerializer(Cipher())
    with AgentkitSaver.from_conn_string(postgres_url, serde=serde) as saver:
        versions = {"list": "1"}
        secret = checkpoint({"list": ["s3cret"]}, versions)
        place = saver.put(config("thread"), secret, metadata(0), versions)
        saver.put_writes(place, [("list", ["s3cret"])], "task")
        assert saver.get_tuple(place).checkpoint["channel_values"] == {"list": ["s3cret"]}
    with psycopg.connect(postgres_url) as connection:
        for table in ["checkpoint_blobs", "checkpoint_writes"]:
            (stored,) = connection.execute(f"SELECT type, blob FROM {table}").fetchall()
            assert stored[0] == "msgpack+xor" and b"s3cret" not in stored[1]
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        with pytest.raises(NotImplementedError, match="xor"):
            saver.get_tuple(place)


def test_a_copy_and_what_a_prune_leaves_have_the_rows_of_langgraphs_saver(postgres_url):
    def rows(thread_id):
        with psycopg.connect(postgres_url) as connection:
            return [
                sorted(str(row) for (row,) in connection.execute(
                    f"SELECT to_jsonb(r) - 'thread_id' FROM {table} r WHERE thread_id = %s",
                    [thread_id],
                ))
                for table in ["checkpoints", "checkpoint_blobs", "checkpoint_writes"]
            ]  # fmt: skip

    with PostgresSaver.from_conn_string(postgres_url) as official:
        official.setup()
        story_sync(build(official, PlainState))
        before = rows("thread")
        with AgentkitSaver.from_conn_string(postgres_url) as ours:
            ours.copy_thread("thread", "copy")
            assert rows("copy") == before
            ours.prune(["copy"])
        official.prune(["thread"])
    assert rows("copy") == rows("thread") != before


async def test_going_back_leaves_everything_in_place(postgres_url):
    page = Path(__file__).parents[3] / "docs" / "coming-from-async-postgres-saver.md"
    (drop,) = re.findall("```sql\n(.*?)```", page.read_text(), re.DOTALL)
    serde = JsonPlusSerializer()
    async with opened("official async", postgres_url, serde) as official:
        first = await store(official.aput, official.aput_writes, "1", official.get_next_version)
    async with opened("ours async", postgres_url, serde) as ours:
        second = await store(ours.aput, ours.aput_writes, "2", ours.get_next_version)
        expected = [await read(ours, places) for places in (first, second)]
    with psycopg.connect(postgres_url) as connection:
        connection.execute(drop)
        tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
        langgraphs = ("checkpoint", "store")
        assert all(name.startswith(langgraphs) for (name,) in connection.execute(tables))
    async with opened("official async", postgres_url, serde) as official:
        assert [await read(official, places) for places in (first, second)] == expected
    # And forth again.
    async with opened("ours async", postgres_url, serde) as ours:
        assert [await read(ours, places) for places in (first, second)] == expected
        assert {thread.id for thread in await ours.athreads()} == {"1", "2"}


def repr_of(seen):
    """Tells 1 from True and 3 from 3.0, which are equal in Python."""

    def ordered(value):
        match value:
            case dict():
                return {key: ordered(value[key]) for key in sorted(value, key=repr)}
            case tuple() if hasattr(value, "_fields"):
                return {name: ordered(getattr(value, name)) for name in value._fields}
            case list() | tuple():
                return type(value)(map(ordered, value))
            case _:
                return value

    return repr(ordered(seen))
