"""What is ours alone: making a saver, the list of threads, errors, serializers."""

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import NamedTuple

import ormsgpack
import psycopg
import pytest
from examples import checkpoint, config, metadata, store
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel, SecretStr
from yai_agentkit import AgentkitSaver, ConflictError, StorageError

SECONDS = 60


def put(saver, thread_id, values):
    versions = dict.fromkeys(values, 1)
    place = config(thread_id)
    return saver.put(place, checkpoint(values, versions), metadata(0), versions)


def test_threads_are_listed_by_their_last_write_in_pages(saver):
    for name in ["one", "two", "three", "one"]:
        put(saver, name, {"text": name})
    saver.copy_thread("two", "copy")
    threads = saver.threads()
    assert [thread.id for thread in threads] == ["copy", "one", "three", "two"]
    assert [thread.parent_id for thread in threads] == ["two", None, None, None]
    assert threads[0].updated_at.tzinfo is not None
    pages = []
    while page := saver.threads(limit=3, after=pages[-1] if pages else None):
        pages += page
    assert pages == threads
    assert asyncio.run(saver.athreads()) == threads


def test_it_needs_langgraphs_checkpoints_and_not_langgraph():
    script = "import sys; sys.modules['langgraph.types'] = None; import yai_agentkit"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_a_context_manager_or_an_event_loop(url):
    saver = AgentkitSaver.from_conn_string(url)
    place = put(saver, "thread", {"list": [1]})
    assert asyncio.run(saver.aget_tuple(place)) == saver.get_tuple(place)
    saver.close()
    saver.close()
    with pytest.raises(RuntimeError, match="closed"):
        saver.get_tuple(place)


async def test_setup_is_done_and_may_be_awaited(url):
    saver = AgentkitSaver.from_conn_string(url)
    saver.setup()
    await saver.setup()
    await saver.asetup()
    await saver.aclose()


def test_a_configuration_comes_from_the_environment_over_a_file(tmp_path):
    file = tmp_path / "agentkit.toml"
    file.write_text(f"[database]\nurl = 'sqlite://{tmp_path}/file.db'\ngenerate_schemas = false")
    with pytest.raises(ValueError, match="migrate"):
        AgentkitSaver.from_config(file, environ={}).__enter__()
    saver = AgentkitSaver.from_config(file, environ={})
    saver.setup()
    put(saver, "thread", {})
    saver.close()
    environment = {"DATABASE_URL": f"sqlite://{tmp_path}/other.db", "DB_GENERATE_SCHEMAS": "true"}
    with AgentkitSaver.from_config(file, environ=environment) as saver:
        assert saver.threads() == []
    with pytest.raises(ValueError, match=r"DB_MAX_CONNECTIONS.*1 to 10000"):
        AgentkitSaver.from_config(environ={"DB_MAX_CONNECTIONS": "many"})


def test_what_json_has_no_room_for_is_kept(saver):
    values = {"nul": "a\0b", "infinity": math.inf, "nan": math.nan, "large": 4.036259327295849e16}
    place = put(saver, "thread", values)
    read = saver.get_tuple(place).checkpoint["channel_values"]
    assert math.isnan(read.pop("nan"))
    del values["nan"]
    assert read == values and isinstance(read["large"], float)


def test_a_version_whose_value_would_not_be_found_again_is_refused(saver):
    def put_version(version):
        versions = {"list": version}
        stored = checkpoint({"list": [version]}, versions)
        return saver.put(config("thread"), stored, metadata(0), versions)

    for version in [0.0, 1e-4, 0.1 + 0.2, 9_999_999_999_999_998.0, 2**63 - 1]:
        read = saver.get_tuple(put_version(version)).checkpoint
        assert read["channel_values"] == {"list": [version]}
    # JSON has an exponent or a sign there, of which each database makes another text.
    for version in [9e-5, 1e16, 2**63, -0.0, -1.5]:
        with pytest.raises(ValueError, match="version: a float must be"):
            put_version(version)


def test_a_refused_write_changes_nothing_and_the_next_one_works(saver):
    place = put(saver, "thread", {"text": "before"})
    stored = checkpoint({"text": "after", "list": [1]}, {"text": 2, "list": 1})
    for bad in [{"nested": {"nul": "a\0b"}}, {"not finite": math.nan}]:
        with pytest.raises(ValueError, match="metadata"):
            saver.put(place, stored, metadata(1, **bad), {"text": 2, "list": 1})
    with pytest.raises(ValueError, match="NUL"):
        put(saver, "a\0b", {})
    with pytest.raises(TypeError):
        saver.put(place, stored, metadata(1, object=object()), {})
    assert [found.config for found in saver.list(config("thread"))] == [place]
    put(saver, "thread", {"text": "after"})


async def test_a_bad_call_says_what_is_wrong(saver):
    with pytest.raises(ValueError, match="thread_id"):
        saver.get_tuple({"configurable": {}})
    with pytest.raises(ValueError, match="configurable"):
        await saver.aget_tuple({})
    with pytest.raises(ValueError, match="checkpoint_id"):
        await saver.aput_writes(config("thread"), [("a", 1)], "task")
    with pytest.raises(ValueError, match="'keep_latest' or 'delete'"):
        await saver.aprune(["thread"], strategy="keep_some")
    with pytest.raises(TypeError, match="thread_ids"):
        saver.prune("thread")
    with pytest.raises(ValueError, match="limit"):
        list(saver.list(None, limit=-1))


def test_a_copy_needs_a_free_target(saver):
    put(saver, "source", {})
    put(saver, "target", {})
    with pytest.raises(ConflictError, match="target"):
        saver.copy_thread("source", "target")


def test_the_copy_of_a_thread_that_never_ran_is_empty(saver):
    saver.copy_thread("nothing", "new")
    assert saver.get_tuple(config("new")) is None
    put(saver, "nothing", {})
    saver.copy_thread("nothing", "new")
    assert saver.get_tuple(config("new")) is not None


def test_a_bad_url_is_refused_at_once():
    with pytest.raises(ValueError, match="postgresql://"):
        AgentkitSaver.from_conn_string("mysql://localhost")


CONNINFO = [
    "host={host} port={port} user={user} dbname={dbname}",
    "  host = '{socket}'  port='{port}' user={user}\n dbname='{dbname}' application_name='a \\'b' ",
    "postgresql://{user}@/{dbname}?host={socket}&port={port}",
]


@pytest.mark.parametrize("conn_string", CONNINFO)
def test_what_libpq_takes_connects(conn_string, postgres_url):
    with psycopg.connect(postgres_url) as connection:
        socket = connection.execute("SHOW unix_socket_directories").fetchone()[0]
        parameters = {**connection.info.get_parameters(), "socket": socket}
    parameters.setdefault("host", "localhost")
    with AgentkitSaver.from_conn_string(conn_string.format(**parameters)) as saver:
        place = put(saver, "thread", {"text": "here"})
        with psycopg.connect(postgres_url) as connection:
            found = connection.execute("SELECT checkpoint_id FROM checkpoints").fetchall()
    assert found == [(place["configurable"]["checkpoint_id"],)]


def test_a_password_of_a_libpq_string_is_not_shown():
    conn_string = r"host=h user=u password='it\'s \\ a & s3cret' dbname=d"
    assert "s3cret" not in repr(AgentkitSaver.from_conn_string(conn_string))
    with pytest.raises(ValueError) as error:
        AgentkitSaver.from_conn_string(conn_string + " s3cret")
    assert str(error.value).startswith("conn_string: ") and "s3cret" not in str(error.value)


@pytest.mark.parametrize("conn_string", ["", "agents", "mysql://h/d", "host=h sslcrl=x"])
def test_what_is_no_connection_string_or_not_heeded_is_refused(conn_string):
    with pytest.raises(ValueError, match="^conn_string: "):
        AgentkitSaver.from_conn_string(conn_string)


def test_a_path_and_memory_are_meant_as_in_other_savers(tmp_path):
    for conn_string in [":memory:", f"{tmp_path}/a:memory:b.db"]:
        with AgentkitSaver.from_conn_string(conn_string) as saver:
            put(saver, "thread", {})
    assert [file.name for file in tmp_path.iterdir()] == ["a:memory:b.db"]


def test_a_service_and_its_password_file_are_heeded(postgres_url, tmp_path, monkeypatch):
    parameters = psycopg.conninfo.conninfo_to_dict(postgres_url)
    lines = [f"{name}={value}" for name, value in parameters.items()]
    (tmp_path / "services").write_text("\n".join(["[agents]", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with AgentkitSaver.from_conn_string("service=agents") as saver:
        place = put(saver, "thread", {})
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT checkpoint_id FROM checkpoints").fetchall()
    assert found == [(place["configurable"]["checkpoint_id"],)]


async def test_a_database_that_is_down_is_not_an_empty_one():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "DATABASE_URL": f"postgresql://u:s3cret@127.0.0.1:{port}/d",
        "DB_START_TIMEOUT": "0.3",
    }
    saver = AgentkitSaver.from_config(environ=environment)
    assert "s3cret" not in repr(saver)
    with pytest.raises(ConnectionError, match=r"does it run.*try again") as error:
        await saver.aget_tuple(config("thread"))
    assert "s3cret" not in str(error.value) + str(error.value.__cause__)
    with pytest.raises(ConnectionError):
        saver.threads()


def test_a_lost_connection_is_replaced(postgres_url):
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        place = put(saver, "thread", {"list": [1]})
        with psycopg.connect(postgres_url, autocommit=True) as administrator:
            administrator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert saver.get_tuple(place).config == place


def test_a_broken_schema_is_an_error_with_its_cause(postgres_url):
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        with psycopg.connect(postgres_url, autocommit=True) as administrator:
            administrator.execute("ALTER TABLE checkpoint_writes RENAME COLUMN idx TO gone")
        with pytest.raises(StorageError) as error:
            saver.get_tuple(config("thread"))
        assert "idx" in str(error.value.__cause__)


class Kind(Enum):
    BLUE = "blue"


class Word(str, Enum):
    """As `StrEnum`, which Python has since 3.11."""

    BLUE = "blue"


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int


class Model(BaseModel):
    secret: SecretStr


@dataclass
class Record:
    kinds: list[Kind]


class Names(set):
    pass


OWN = [
    Kind.BLUE,
    Word.BLUE,
    Rights.READ | Rights.WRITE,
    Pair(1),
    Model(secret="s"),
    Record([Kind.BLUE]),
    Names({"a"}),
]


@pytest.mark.parametrize("value", [*OWN, -0.0, 0.0, "half: \ud83d", "\ude00", ["\ud83d"], "a\0b"])
async def test_what_in_memory_saver_keeps_is_kept(value, saver):
    read = []
    for each in [InMemorySaver(), saver]:
        place = put(each, "thread", {"value": value})
        each.put_writes(place, [("value", value)], "task")
        found = await each.aget_tuple(place)
        read += [[found.checkpoint["channel_values"]["value"], found.pending_writes[0][2]]]
    expected, ours = read
    assert repr(ours) == repr(expected)
    if value in OWN:
        assert ours == [value, value]


def test_half_a_character_in_metadata_ends_no_turn(saver):
    stored = checkpoint({}, {})
    place = saver.put(config("thread"), stored, metadata(0, text="half: \ud83d"), {})
    assert saver.get_tuple(place).metadata["text"] == "half: ?"
    assert [found.config for found in saver.list(None, filter={"text": "half: \ud83d"})] == [place]


async def test_a_filter_finds_integers_of_any_size(saver):
    numbers = [2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, 10**40, 10**40 + 1, -(2**63) - 1]
    places = {}
    for number in numbers:
        known = metadata(0, number=number, nested={"list": [0, number]}, even=number % 2 == 0)
        for _ in range(2):
            place = saver.put(config("thread"), checkpoint({}, {}), known, {})
            places.setdefault(number, []).insert(0, place)
    for number in numbers:
        for pattern in [{"number": number}, {"nested": {"list": [number]}}]:
            found = [each.config async for each in saver.alist(None, filter=pattern)]
            assert found == places[number]
            assert [each.config for each in saver.list(None, filter=pattern, limit=1)] == found[:1]
        assert not list(saver.list(None, filter={"number": number, "even": number % 2 == 1}))
    assert not list(saver.list(None, filter={"number": 10**40 + 2}))


def test_a_key_with_dots_is_a_key_or_a_path(saver):
    known = [
        {"user.id": 1, "n": 0},
        {"user": {"id": 1, "age": 2**70}, "n": 0},
        {"user": {"id": 1, "age": 3}},
        {"user": {"id": 2}},
    ]
    places = [
        saver.put(config("thread"), checkpoint({}, {}), metadata(0, **each), {}) for each in known
    ]

    def found(filter, limit=None):
        return [places.index(each.config) for each in saver.list(None, filter=filter, limit=limit)]

    assert found({"user.id": 1}) == [2, 1, 0]
    assert found({"user.id": 1}, limit=2) == [2, 1]
    assert found({"user.id": 1, "n": 0}) == [1, 0]
    assert found({"user.id": 1, "user": {"age": 3}}) == []
    assert found({"user.id": 1, "user.age": 3}) == [2]
    assert found({"user.age": 2**70}) == [1]
    assert found({"user.name": "Ada"}) == []


class Unknown:
    """Nothing that LangGraph's serializer knows."""


async def test_values_are_never_pickled_and_types_come_back_only_as_allowed(saver):
    strict = AgentkitSaver(saver._engine, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    place = put(strict, "thread", {"kind": [Kind.BLUE]})
    assert (await strict.aget_tuple(place)).checkpoint["channel_values"] == {"kind": ["blue"]}
    allowing = strict.with_allowlist([(Kind.__module__, "Kind")])
    assert (await allowing.aget_tuple(place)).checkpoint["channel_values"] == {"kind": [Kind.BLUE]}
    with pytest.raises(TypeError, match="serializable: Unknown"):
        put(saver, "thread", {"unknown": Unknown()})


# What a row may say: call this with these arguments. By the kinds of extension of LangGraph.
HOSTILE = {
    "a function": (0, ("os", "system", "echo > {file}")),
    "a function of several arguments": (1, ("os", "popen", ("echo > {file}",))),
    "a function of named arguments": (2, ("subprocess", "run", {"args": ["touch", "{file}"]})),
    "a class": (1, ("subprocess", "Popen", (["touch", "{file}"],))),
    "a built-in": (0, ("builtins", "exec", "open({file!r}, 'w')")),
    "a model of pydantic 1": (4, ("subprocess", "Popen", {"args": ["touch", "{file}"]})),
    "a model of pydantic 2": (5, ("subprocess", "Popen", {"args": ["touch", "{file}"]})),
    "a module of the path": (0, ("hostile", "Kind", "blue")),
}


class RawSerializer(JsonPlusSerializer):
    def dumps_typed(self, obj):
        return "msgpack", obj


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_row_calls_nothing(name, saver, tmp_path, monkeypatch):
    file = tmp_path / "called"
    (tmp_path / "hostile.py").write_text(f"open({str(file)!r}, 'w')\nKind = print")
    monkeypatch.syspath_prepend(tmp_path)

    def filled(value):
        if isinstance(value, str):
            return value.format(file=str(file))
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return type(value)(map(filled, value))

    kind, call = HOSTILE[name]
    call = filled(call)
    row = ormsgpack.packb([ormsgpack.Ext(kind, ormsgpack.packb(call))])
    raw = AgentkitSaver(saver._engine, serde=RawSerializer())
    place = put(raw, "thread", {"value": row})
    raw.put_writes(place, [("value", row)], "task")
    found = saver.get_tuple(place)
    given = json.loads(json.dumps(call[2]))
    assert found.checkpoint["channel_values"] == {"value": [given]}
    assert found.pending_writes == [("task", "value", [given])]
    assert not file.exists() and "hostile" not in sys.modules

    # The loose mode, by name: so the row is one that would have.
    loose = JsonPlusSerializer(allowed_msgpack_modules=True)
    AgentkitSaver(saver._engine, serde=loose).get_tuple(place)
    sys.modules.pop("hostile", None)
    deadline = time.monotonic() + SECONDS
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.exists()


def test_langgraphs_strict_mode_leaves_out_the_programs_own():
    script = """
from enum import Enum
from yai_agentkit import DataSerializer
class Kind(Enum):
    BLUE = "blue"
strict = DataSerializer()
stored = strict.dumps_typed(Kind.BLUE)
assert strict.loads_typed(stored) == "blue"
assert strict.with_msgpack_allowlist([Kind]).loads_typed(stored) is Kind.BLUE
"""
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


async def test_operations_on_runs_and_threads(saver):
    for thread in ["one", "two"]:
        await store(saver.aput, saver.aput_writes, thread, saver.get_next_version)
    await saver.adelete_for_runs(["no such run"])
    assert len([found async for found in saver.alist(config("one"))]) == 3
    latest, copy = await saver.aget_tuple(config("one")), await saver.aget_tuple(config("two"))
    await saver.aprune(["one"])
    assert await saver.aget_tuple(latest.config) == latest
    assert await saver.aget_tuple(config("two")) == copy
    await saver.aprune(["one"], strategy="delete")
    await saver.acopy_thread("two", "three")
    await saver.aprune(["three"], strategy="delete_all")
    assert await saver.aget_tuple(config("three")) is None
    await saver.adelete_for_runs(["run"])
    assert await saver.athreads() == []
