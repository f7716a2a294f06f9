"""Another SQLite in the process: Python's `sqlite3` is another library than ours.

Nothing that either has acknowledged may be lost, whatever they do in threads, whenever they close
the file and whenever the process is killed. AGENTKIT_TEST_SEEDS=1000 looks longer.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples import config
from yai_agentkit import AgentkitSaver

SECONDS = 120
SEEDS = 12

# What a saver acknowledges, and what another library commits, is written to the standard output.
PRELUDE = f"""
import os, random, signal, sqlite3, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from examples import checkpoint, config, metadata
from yai_agentkit import AgentkitSaver

file, seed = sys.argv[1], int(sys.argv[2])

def acknowledge(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

def make():
    return AgentkitSaver.from_conn_string("sqlite://" + file)

def put(saver, thread, text=""):
    stored = checkpoint({{"list": [text]}}, {{"list": 1}})
    saver.put(config(thread), stored, metadata(0), {{"list": 1}})
    acknowledge("checkpoint", stored["id"])

def connect():
    connection = sqlite3.connect(file, timeout=60, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS own (id INTEGER PRIMARY KEY)")
    return connection

def add(connection, id):
    connection.execute("INSERT INTO own VALUES (?)", (id,))
    acknowledge("row", id)

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(script, file, seed=0):
    """What the script acknowledged before it killed itself."""
    # Python 3.12 warns of every fork beside threads.
    options = ["-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    command = [sys.executable, *options, "-c", PRELUDE + script, str(file), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert (process.returncode, errors.decode()) == (-signal.SIGKILL, "")
    acknowledged = [line.split() for line in output.decode().splitlines()]
    return [tuple(line) for line in acknowledged]


def missing(file, acknowledged):
    """What of it the file does not have, as each of the libraries sees it."""
    with AgentkitSaver.from_conn_string(f"sqlite://{file}") as saver:
        found = {("checkpoint", at.checkpoint["id"]) for at in saver.list(None)}
    connection = sqlite3.connect(file)
    with connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = connection.execute("SELECT checkpoint_id FROM checkpoints").fetchall()
        assert {("checkpoint", id) for (id,) in stored} == found
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'own'").fetchall():
            rows = connection.execute("SELECT id FROM own").fetchall()
            found |= {("row", str(id)) for (id,) in rows}
    connection.close()
    return set(acknowledged) - found


LOOKS = {
    "sqlite3": """
connection = sqlite3.connect(file)
connection.execute("SELECT count(*) FROM checkpoints").fetchall()
connection.close()
""",
    "aiosqlite": """
import aiosqlite, asyncio
async def look():
    async with aiosqlite.connect(file) as connection:
        await connection.execute_fetchall("SELECT count(*) FROM checkpoints")
asyncio.run(look())
""",
    "sqlalchemy": """
import sqlalchemy
engine = sqlalchemy.create_engine("sqlite:///" + file)
with engine.connect() as connection:
    connection.execute(sqlalchemy.text("SELECT count(*) FROM checkpoints")).all()
engine.dispose()
""",
    "no SQLite": "open(file, 'rb').close(); open(file + '-shm', 'rb').close()",
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_through_another_library_loses_no_checkpoint(look, tmp_path):
    script = f"""
saver = make()
put(saver, "before")
{LOOKS[look]}
for n in range(100):
    put(saver, "after")
die()
"""
    acknowledged = run(script, tmp_path / "file.db")
    assert len(acknowledged) == 101
    assert missing(tmp_path / "file.db", acknowledged) == set()


def test_a_saver_that_comes_and_goes_loses_no_row_of_another_library(tmp_path):
    script = """
connection = connect()
connection.execute("PRAGMA journal_mode = WAL")
add(connection, 0)
for n in range(3):
    with make() as saver:
        put(saver, "thread")
    # A stranger that took the database for abandoned would check the log out, and delete it.
    stranger = os.fork()
    if stranger == 0:
        os.execv(sys.executable, [sys.executable, "-c", f'''
import sqlite3
connection = sqlite3.connect({file!r})
connection.execute("SELECT count(*) FROM own").fetchall()
connection.close()
'''])
    assert os.waitpid(stranger, 0)[1] == 0
    for row in range(10):
        add(connection, 1 + 10 * n + row)
die()
"""
    acknowledged = run(script, tmp_path / "file.db")
    assert len(acknowledged) == 34
    assert missing(tmp_path / "file.db", acknowledged) == set()


STRESS = """
dice = random.Random(seed)
ids = iter(range(10**9))

def use_saver(dice):
    while True:
        saver = make()
        for _ in range(dice.randrange(30)):
            put(saver, f"thread {dice.randrange(3)}", "x" * dice.choice([10, 10, 10, 100_000]))
        saver.close()

def use_sqlite3(dice):
    while True:
        connection = connect()
        for _ in range(dice.randrange(30)):
            match dice.randrange(8):
                case 0:
                    mode = dice.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
                    connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
                case 1:
                    connection.execute("SELECT count(*) FROM checkpoints").fetchall()
                case _:
                    add(connection, next(ids))
        connection.close()

make().setup()
for use in [use_saver, use_saver, use_sqlite3, use_sqlite3]:
    threading.Thread(target=use, args=[random.Random(dice.random())], daemon=True).start()
time.sleep(SECONDS)
die()
"""


def test_under_stress_nothing_that_either_acknowledged_is_lost(tmp_path):
    lost, counts = {}, []
    for seed in range(int(os.environ.get("AGENTKIT_TEST_SEEDS", SEEDS))):
        file = tmp_path / f"{seed}.db"
        seconds = str(random.Random(seed).uniform(0.2, 0.8))
        acknowledged = run(STRESS.replace("SECONDS", seconds), file, seed)
        counts.append(len(acknowledged))
        if gone := missing(file, acknowledged):
            lost[seed] = (len(gone), len(acknowledged))
    print(f"acknowledged in {len(counts)} runs: {sum(counts)}")
    assert lost == {}
    assert sum(counts) > 10 * len(counts)


FORKS = {
    "the parent is killed": """
if os.fork():
    for n in range(50):
        put(saver, "parent")
    die()
mine = make()
for n in range(50):
    put(mine, "child")
while os.getppid() == parent:
    time.sleep(0.01)
# The parent's locks went with it.
for n in range(50):
    put(mine, "child")
acknowledge("done")
die()
""",
    "the child is killed": """
child = os.fork()
if child == 0:
    mine = make()
    for n in range(50):
        put(mine, "child")
    die()
for n in range(50):
    put(saver, "parent")
assert os.waitpid(child, 0)[1] == signal.SIGKILL
for n in range(50):
    put(saver, "parent")
die()
""",
    "others write meanwhile": """
def write():
    for n in range(25):
        put(saver, "parent")

threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
for n in range(10):
    child = os.fork()
    if child == 0:
        with make() as mine:
            for n in range(10):
                put(mine, "child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
for thread in threads:
    thread.join()
die()
""",
    "the child closes": """
child = os.fork()
if child == 0:
    with make() as mine:
        for n in range(50):
            put(mine, "child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
for n in range(100):
    put(saver, "parent")
die()
""",
}


@pytest.mark.parametrize("ending", FORKS)
def test_a_child_with_a_saver_of_its_own_loses_nothing(ending, tmp_path):
    script = "saver = make()\nparent = os.getpid()\nput(saver, 'before')\n" + FORKS[ending]
    acknowledged = run(script, tmp_path / "file.db")
    if ("done",) in acknowledged:
        acknowledged.remove(("done",))
    assert len(acknowledged) == 151
    assert missing(tmp_path / "file.db", acknowledged) == set()


def test_files_that_nobody_uses_are_closed(tmp_path):
    def descriptors():
        """Once those are closed that are being closed."""
        last, count = None, len(os.listdir("/dev/fd"))
        while count != last:
            time.sleep(0.3)
            last, count = count, len(os.listdir("/dev/fd"))
        return count

    before = None
    for n in range(10):
        with AgentkitSaver.from_conn_string(f"sqlite://{tmp_path}/{n}.db") as saver:
            saver.get_tuple(config("thread"))
        # The runtime has its own.
        before = before or descriptors()
    assert descriptors() == before
    # As long as another library uses them, they wait for the next saver.
    connection = sqlite3.connect(tmp_path / "0.db")
    connection.execute("SELECT * FROM checkpoints").fetchall()
    opened = descriptors()
    kept = set()
    for _ in range(10):
        with AgentkitSaver.from_conn_string(f"sqlite://{tmp_path}/0.db") as saver:
            saver.get_tuple(config("thread"))
        kept.add(descriptors() - opened)
    assert len(kept) == 1 and kept.pop() <= 8
    connection.close()
    AgentkitSaver.from_conn_string(f"sqlite://{tmp_path}/1.db").__enter__().close()
    assert descriptors() == before
