"""A worker process of test_turns.py: python turn_worker.py URL THREAD_ID|- LEASE LOG PAUSE."""

import asyncio
import sys
from pathlib import Path

from yai_agentkit import AgentkitSaver, Fenced, run_worker

from turn_graph import counting_graph


async def main() -> None:
    url, thread_id, lease, log, pause = sys.argv[1:]
    async with AgentkitSaver.from_conn_string(url) as saver:
        graph = counting_graph(saver, Path(log), float(pause))
        if thread_id == "-":
            await run_worker(graph, poll=0.05, lease=float(lease), concurrency=4)
            return
        try:
            async with saver.turn(
                thread_id, input={"seen": ["hi"]}, key="key", lease=float(lease)
            ) as turn:
                turn.result = await graph.ainvoke(turn.input, turn.config)
        except Fenced:
            print("fenced", flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
