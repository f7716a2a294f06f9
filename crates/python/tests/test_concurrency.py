"""Any number of tasks, threads, event loops and processes, and of those that stop waiting."""

import asyncio
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import uvloop
from examples import checkpoint, config, metadata
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from yai_agentkit import AgentkitSaver, ConflictError

TASKS = 64
SECONDS = 60


def put_arguments(thread_id, parent=None):
    versions = {"list": "1"}
    stored = checkpoint({"list": [thread_id], "text": "inline"}, versions)
    return parent or config(thread_id), stored, metadata(0), versions


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """It watches no pipe, as the ProactorEventLoop of Windows."""

    def add_reader(self, *_):
        raise NotImplementedError


def run_without_readers(main):
    loop = LoopWithoutReaders()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


RUNS = [asyncio.run, uvloop.run, run_without_readers]


@pytest.mark.parametrize("run", RUNS)
def test_tasks_cancelled_at_random_lose_no_acknowledged_write(run, saver, url):
    run(cancel_at_random(saver, url))


async def cancel_at_random(saver, url):
    acknowledged = []

    async def write(thread_id):
        place = None
        while True:
            place = await saver.aput(*put_arguments(thread_id, place))
            acknowledged.append((place, "put"))
            await saver.aput_writes(place, [("list", place)], "task")
            acknowledged.append((place, "put_writes"))
            assert (await saver.aget_tuple(config(thread_id))).config == place

    async def cancelled(number):
        for attempt in range(3):
            task = asyncio.create_task(write(f"{number}-{attempt}"))
            await asyncio.sleep(random.random() / 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    await asyncio.wait_for(asyncio.gather(*map(cancelled, range(TASKS))), SECONDS)
    assert acknowledged
    for place, what in acknowledged:
        found = await saver.aget_tuple(place)
        assert found.checkpoint["channel_values"]["text"] == "inline"
        if what == "put_writes":
            assert found.pending_writes == [("task", "list", place)]
    # As many calls at once as the pool has connections: none is leaked.
    threads = [f"{number}-0" for number in range(TASKS)]
    found = asyncio.gather(*(saver.aget_tuple(config(thread)) for thread in threads))
    await asyncio.wait_for(found, SECONDS)
    if not url.startswith("sqlite"):
        assert 0 < connections(url) <= 20


def connections(url):
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return connection.execute(query).fetchone()[0] - 1


async def test_closing_leaves_no_connection(postgres_url):
    async with AgentkitSaver.from_conn_string(postgres_url) as saver:
        await asyncio.gather(*(saver.aput(*put_arguments(str(n))) for n in range(TASKS)))
        assert connections(postgres_url) > 0
    for _ in range(50):
        if connections(postgres_url) == 0:
            return
        await asyncio.sleep(0.1)
    pytest.fail("connections are left")


def test_one_saver_serves_threads_and_event_loops_at_once(saver):
    async def in_loop(name):
        places = await asyncio.gather(
            *(saver.aput(*put_arguments(f"{name}-{n}")) for n in range(8))
        )
        # A sync call within the loop.
        assert saver.get_tuple(places[0]).config == places[0]
        return [await saver.aget_tuple(place) for place in places]

    def in_thread(name):
        if name % 2:
            return asyncio.run(asyncio.wait_for(in_loop(name), SECONDS))
        return [saver.get_tuple(saver.put(*put_arguments(f"{name}-{n}"))) for n in range(8)]

    with ThreadPoolExecutor(8) as threads:
        found = [item for items in threads.map(in_thread, range(16)) for item in items]
    names = {item.config["configurable"]["thread_id"] for item in found}
    assert names == {f"{name}-{n}" for name in range(16) for n in range(8)}
    assert {thread.id for thread in saver.threads(limit=1000)} == names


@pytest.mark.parametrize("run", RUNS)
def test_event_loops_leave_nothing_behind(run):
    async def read():
        await asyncio.gather(*(saver.aget_tuple(config(str(n))) for n in range(TASKS)))

    def files():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with AgentkitSaver.from_conn_string("sqlite::memory:") as saver:
        for _ in range(3):
            run(read())
        before = files()
        for _ in range(20):
            run(read())
        assert files() <= before


def test_an_event_loop_without_add_reader_gets_errors_too(saver):
    async def copy():
        return await saver.acopy_thread("thread", "thread")

    saver.put(*put_arguments("thread"))
    with pytest.raises(ConflictError, match="thread"):
        run_without_readers(copy())


async def test_maintenance_harms_no_live_writer(saver):
    await maintain_beside(saver, saver)


async def test_maintenance_harms_no_live_writer_of_langgraph(postgres_url):
    async with AgentkitSaver.from_conn_string(postgres_url) as saver:
        async with AsyncPostgresSaver.from_conn_string(postgres_url) as official:
            await maintain_beside(official, saver)


async def maintain_beside(writer, saver):
    """Copies and prunes a thread and deletes its runs while `writer` goes on with it."""
    stored, finished = {}, []

    def assert_whole(found):
        assert found.checkpoint == stored[found.checkpoint["id"]]

    async def write():
        place, versions = config("live"), {}
        for step in itertools.count():
            new = {"list": f"{step:04}", "text": f"{step:04}"}
            # All others have it from the first.
            new |= {} if step else {"shared": "0000"}
            versions = versions | new
            values = {"list": [step], "text": str(step), "shared": ["shared"]}
            put = checkpoint(values, versions)
            stored[put["id"]] = put
            place = await writer.aput(place, put, metadata(step, run_id=str(step)), new)
            await writer.aput_writes(place, [("list", step)], "task")
            found = await saver.aget_tuple(place)
            assert_whole(found)
            assert found.pending_writes == [("task", "list", step)]
            finished.append(str(step))
            if maintaining.done():
                return

    async def listed(thread_id):
        found = [item async for item in saver.alist(config(thread_id))]
        for item in found:
            assert_whole(item)
        return found

    async def copy(target):
        _, meanwhile = await asyncio.gather(saver.acopy_thread("live", target), listed(target))
        # All at once, or nothing yet.
        assert meanwhile in ([], await listed(target))

    async def maintain():
        while not finished:
            await asyncio.sleep(0)
        for number in range(10):
            await copy(f"copy {number}")
            # Not the run from which the next one starts.
            await saver.adelete_for_runs(finished[:-1])
            await copy(f"another copy {number}")
            await saver.aprune(["live"])

    maintaining = asyncio.create_task(maintain())
    await asyncio.wait_for(asyncio.gather(write(), maintaining), SECONDS)
    await saver.aprune(["live"])
    (latest,) = await listed("live")
    assert str(latest.metadata["step"]) == finished[-1]


async def test_what_a_superstep_writes_at_once_is_one_transaction(postgres_url):
    async with AgentkitSaver.from_conn_string(postgres_url) as saver:
        place = await saver.aput(*put_arguments("thread"))
        following = put_arguments("thread", place)
        following[1]["id"] += "-next"
        writes = [("list", ["a"]), ("text", "b")]
        _, next_place = await asyncio.gather(
            saver.aput_writes(place, writes, "task"), saver.aput(*following)
        )
        with psycopg.connect(postgres_url) as connection:
            query = """
                SELECT xmin::text FROM checkpoints WHERE parent_checkpoint_id IS NOT NULL
                UNION SELECT xmin::text FROM checkpoint_writes
            """
            assert len(connection.execute(query).fetchall()) == 1
        # The first write stays.
        await asyncio.gather(
            saver.aput(*following), saver.aput_writes(place, [("list", ["late"])], "task")
        )
        found = await saver.aget_tuple(place)
        assert found.pending_writes == [("task", *write) for write in writes]
        found = await saver.aget_tuple(next_place)
        assert found.parent_config == place
        assert found.checkpoint["channel_values"] == following[1]["channel_values"]


def test_a_waiting_thread_lets_others_run(postgres_url):
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        with psycopg.connect(postgres_url) as blocker:
            blocker.execute("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
            waiting = threading.Thread(target=saver.get_tuple, args=(config("thread"),))
            waiting.start()
            ran = 0
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                ran += 1
            assert waiting.is_alive() and ran > 1000
        waiting.join(SECONDS)
        assert not waiting.is_alive()


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a job in the background would not hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_blocking_call(ctrl_c, postgres_url):
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        with psycopg.connect(postgres_url) as blocker:
            blocker.execute("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                saver.get_tuple(config("thread"))
        assert saver.get_tuple(config("thread")) is None


async def test_a_call_runs_once(saver):
    call = saver._engine.get("thread", "", None)
    assert await call is None
    with pytest.raises(RuntimeError, match="once"):
        await call
    with pytest.raises(RuntimeError, match="once"):
        call.wait()


async def test_calls_that_end_are_not_kept(saver):
    place = await saver.aput(*put_arguments("thread"))
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        await saver.aput(*put_arguments("thread", place))
        await saver.aget_tuple(place)
    gc.collect()
    assert len(gc.get_objects()) < before + 100


async def test_memory_does_not_grow_with_the_operations(postgres_url):
    """100,000 of them by AGENTKIT_TEST_OPERATIONS=100000. A value that is kept would show."""

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def operate(times):
        for _ in range(times):
            await asyncio.gather(*(step() for step in steps))

    versions = {"list": "1"}
    stored = checkpoint({"list": [os.urandom(2**17)]}, versions)
    async with AgentkitSaver.from_conn_string(postgres_url) as saver:
        place = await saver.aput(config("thread"), stored, metadata(0), versions)
        steps = [
            lambda: saver.aput(config("thread"), stored, metadata(0), versions),
            lambda: saver.aput_writes(place, [("list", os.urandom(2**17))], "task"),
            lambda: saver.aget_tuple(place),
            lambda: asyncio.to_thread(saver.get_tuple, place),
        ]
        await operate(25)
        before = resident()
        await operate(int(os.environ.get("AGENTKIT_TEST_OPERATIONS", "400")) // len(steps))
        assert resident() - before < 16 * 2**20


SCRIPT = """
import asyncio, os, sys
from yai_agentkit import AgentkitSaver

saver = AgentkitSaver.from_conn_string(sys.argv[1])
thread = {"configurable": {"thread_id": "thread"}}
assert saver.get_tuple(thread) is None
"""

ENDINGS = {
    "without a close": "",
    "with calls under way": """
async def main():
    for _ in range(200):
        asyncio.ensure_future(saver.aget_tuple(thread))
    await asyncio.sleep(0)
asyncio.run(main())
""",
    "with calls under way in an event loop without add_reader": """
class Loop(asyncio.SelectorEventLoop):
    def add_reader(self, *_):
        raise NotImplementedError
async def main():
    for _ in range(200):
        asyncio.ensure_future(saver.aget_tuple(thread))
    await saver.aget_tuple(thread)
Loop().run_until_complete(main())
""",
    "after a fork": """
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
else:
    try:
        saver.get_tuple(thread)
        os._exit(1)
    except RuntimeError as error:
        assert "fork" in str(error)
    with AgentkitSaver.from_conn_string(sys.argv[1]) as fresh:
        assert fresh.get_tuple(thread) is None
    os._exit(0)
assert saver.get_tuple(thread) is None
""",
    "with a close after a fork": """
call = saver._engine.threads(1, None)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
else:
    try:
        call.wait()
        os._exit(1)
    except RuntimeError as error:
        assert "fork" in str(error)
    saver.close()
    asyncio.run(saver.aclose())
    os._exit(0)
assert saver.get_tuple(thread) is None
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_well(ending, url):
    # Python 3.12 warns of every fork beside threads.
    options = ["-X", "faulthandler", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *options, "-c", SCRIPT + ENDINGS[ending], url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_greenlets_of_gevent_run_while_one_waits(tmp_path):
    # One holds SQLite's only write transaction, and gives it back in its own time.
    script = """
from gevent import monkey
monkey.patch_all()
import gevent, sqlite3, sys
from yai_agentkit import AgentkitSaver

saver = AgentkitSaver.from_conn_string("sqlite://" + sys.argv[1])
saver.setup()
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
waiting = [gevent.spawn(saver.copy_thread, "thread", f"copy {n}") for n in range(2)]
waiting.append(gevent.spawn(saver.delete_thread, "thread"))
gevent.sleep(0.3)
assert not any(greenlet.ready() for greenlet in waiting[2:])
connection.execute("COMMIT")
gevent.joinall(waiting, timeout=20)
assert all(greenlet.successful() for greenlet in waiting)
saver.close()
"""
    command = [sys.executable, "-c", script, str(tmp_path / "file.db")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
