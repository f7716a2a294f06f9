"""What the workloads in Python share: the savers, and the talk with `bench/src/python.rs`.

A script gets its arguments as one line of JSON on standard input, prints `ready` when it is set up,
waits for the line `go`, and prints its answer as one line of JSON.
"""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

# As AgentKit's pool by default.
POOL = 20


@asynccontextmanager
async def connect(saver, url):
    """The saver of this name on the database of this URL, its tables made."""
    if saver == "memory":
        from langgraph.checkpoint.memory import InMemorySaver

        yield InMemorySaver()
    elif saver == "postgres":
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield saver
    elif saver == "postgres-pool":
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        # As from_conn_string connects.
        settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(url, min_size=POOL, max_size=POOL, kwargs=settings) as pool:
            await pool.wait()
            saver = AsyncPostgresSaver(pool)
            await saver.setup()
            yield saver
    elif saver == "sqlite":
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        file = url.removeprefix("sqlite:").split("?")[0]
        async with AsyncSqliteSaver.from_conn_string(file) as saver:
            await saver.setup()
            yield saver
    elif saver == "agentkit":
        from yai_agentkit import AgentkitSaver

        async with AgentkitSaver.from_conn_string(url) as saver:
            yield saver
    else:
        raise ValueError(f"no saver {saver!r}")


class Latencies:
    def __init__(self):
        self.times = {}

    def add(self, operation, seconds):
        self.times.setdefault(operation, []).append(seconds)

    def percentiles(self):
        """In microseconds."""
        return {
            operation: {
                "p50": round(1e6 * times[len(times) // 2]),
                "p99": round(1e6 * times[len(times) * 99 // 100]),
            }
            for operation, times in ((o, sorted(t)) for o, t in self.times.items())
        }


def serve(main):
    """Runs `main(arguments, go)`; it awaits `go()` when it is set up, and returns the answer."""

    async def go():
        print("ready", flush=True)
        assert (await asyncio.to_thread(sys.stdin.readline)).strip() == "go"

    arguments = json.loads(sys.stdin.readline())
    print(json.dumps(asyncio.run(main(arguments, go))), flush=True)
