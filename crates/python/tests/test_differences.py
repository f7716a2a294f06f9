"""Where ours does what AsyncPostgresSaver does not: each story is played on both.

These are the facts of docs/coming-from-async-postgres-saver.md.
"""

import asyncio
import math
from enum import Enum

import ormsgpack
import psycopg
import pytest
from conftest import at, new_database
from examples import checkpoint, config, metadata
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.errors import (
    DuplicatePreparedStatement,
    InvalidTextRepresentation,
    UntranslatableCharacter,
)
from test_graph import QUESTION, THREAD, build
from yai_agentkit import AgentkitSaver

SECONDS = 60


async def put(saver, value="text"):
    versions = {"value": "1"}
    stored = checkpoint({"value": value}, versions)
    return await saver.aput(config("thread"), stored, metadata(0), versions)


def keeps(value):
    async def story(saver, _):
        read = (await saver.aget_tuple(await put(saver, value))).checkpoint["channel_values"]
        assert repr(read["value"]) == repr(value)

    return story


class Word(str, Enum):
    """As `StrEnum`, which Python has since 3.11."""

    BLUE = "blue"


async def takes_half_a_character(saver, _):
    await put(saver, "half: \ud83d")


async def runs_nothing_that_a_row_says(saver, _):
    row = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "getenv", "PATH"))))
    read = saver.serde.loads_typed(("msgpack", row))
    assert read == "PATH"


async def answers_sync_calls_in_an_event_loop(saver, _):
    place = await put(saver)
    assert saver.get_tuple(place).config == place


async def serves_a_second_event_loop(saver, _):
    place = await put(saver)

    async def many():
        found = await asyncio.gather(*(saver.aget_tuple(place) for _ in range(20)))
        assert all(item.config == place for item in found)

    # One after the other: at once, LangGraph's saver may also hang.
    await many()
    await asyncio.to_thread(lambda: asyncio.run(many()))


async def outlives_its_connections(saver, database):
    place = await put(saver)
    with psycopg.connect(at("postgres", database), autocommit=True) as administrator:
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert (await saver.aget_tuple(place)).config == place


async def goes_through_a_transaction_pooler(saver, database):
    opened = type(saver).from_conn_string
    url = at("pgbouncer", database)
    async with opened(url) as one, opened(url) as two:
        for each in [one, two] * 10:
            place = await put(each)
            assert (await each.aget_tuple(place)).config == place


async def copies_a_thread(saver, _):
    await put(saver)
    await saver.acopy_thread("thread", "copy")
    assert (await saver.aget_tuple(config("copy"))) is not None


async def deletes_a_run(saver, _):
    place = await put(saver)
    await saver.adelete_for_runs(["run"])
    assert await saver.aget_tuple(place) is None


async def prunes_a_thread_with_a_delta_channel(saver, _):
    graph = build(saver)
    await graph.ainvoke(QUESTION, THREAD)
    before = await graph.aget_state(THREAD)
    await saver.aprune(["thread"])
    assert (await graph.aget_state(THREAD)).values == before.values


async def lists_the_threads(saver, _):
    await put(saver)
    assert [thread.id for thread in await saver.athreads()] == ["thread"]


async def loses_no_value_of_a_version_with_an_exponent(saver, _):
    versions = {"value": 1e16}
    stored = checkpoint({"value": ["here"]}, versions)
    try:
        place = await saver.aput(config("thread"), stored, metadata(0), versions)
    except ValueError as refused:
        assert "version" in str(refused)
    else:
        found = await saver.aget_tuple(place)
        assert found.checkpoint["channel_values"] == {"value": ["here"]}


async def replays_a_delta_channel_from_a_stored_none(saver, _):
    place = config("thread")
    for version, value in [("1", ["old"]), ("2", None), ("3", "later")]:
        versions = {"value": version}
        stored = checkpoint({"value": value}, versions)
        place = await saver.aput(place, stored, metadata(0), versions)
    history = await saver.aget_delta_channel_history(config=place, channels=["value"])
    assert history == {"value": {"writes": [], "seed": None}}


async def lists_all_before_no_checkpoint(saver, _):
    place = await put(saver)
    found = [item async for item in saver.alist(place, before=config("thread"))]
    assert [item.config for item in found] == [place]


STORIES = [
    # The story, and what it ends with on AsyncPostgresSaver.
    (keeps("a\0b"), UntranslatableCharacter),
    (keeps(math.nan), InvalidTextRepresentation),
    (keeps(math.inf), InvalidTextRepresentation),
    (keeps(4.036259327295849e16), AssertionError),
    (keeps(-0.0), AssertionError),
    (keeps(Word.BLUE), AssertionError),
    (takes_half_a_character, InvalidTextRepresentation),
    (runs_nothing_that_a_row_says, AssertionError),
    (answers_sync_calls_in_an_event_loop, asyncio.InvalidStateError),
    (serves_a_second_event_loop, RuntimeError),
    (outlives_its_connections, psycopg.OperationalError),
    (goes_through_a_transaction_pooler, DuplicatePreparedStatement),
    (copies_a_thread, NotImplementedError),
    (deletes_a_run, NotImplementedError),
    (prunes_a_thread_with_a_delta_channel, NotImplementedError),
    (lists_the_threads, AttributeError),
    (loses_no_value_of_a_version_with_an_exponent, AssertionError),
    (replays_a_delta_channel_from_a_stored_none, AssertionError),
    (lists_all_before_no_checkpoint, AssertionError),
]


async def play(saver_type, story):
    with new_database() as database:
        async with saver_type.from_conn_string(at("postgres", database)) as saver:
            await saver.setup()
            await asyncio.wait_for(story(saver, database), SECONDS)


@pytest.mark.parametrize(("story", "_"), STORIES)
async def test_ours(story, _):
    await play(AgentkitSaver, story)


@pytest.mark.parametrize(("story", "error"), STORIES)
async def test_the_official_saver_fails(story, error):
    with pytest.raises(error):
        await play(AsyncPostgresSaver, story)
