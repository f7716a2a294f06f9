"""What a turn costs: invocations of the graph of `graph.py` in turns, against those of the saver alone.

    turn_cost.py URL [--rounds 7] [--seconds 4] [--threads 1,16]

Both take turns at going first, on threads of their own; after the first round, which warms up, each round
gives a ratio. Prints invocations a second and the median of the ratios, whose target is 0.95.
"""

import argparse
import asyncio
import json
import statistics
import time
import uuid

from graph import build
from yai_agentkit import AgentkitSaver

INPUT = {"count": 0, "log": []}


async def plainly(saver, graph):
    config = {"configurable": {"thread_id": str(uuid.uuid4())}}
    return await graph.ainvoke(INPUT, config, durability="sync")


async def in_a_turn(saver, graph):
    async with saver.turn(str(uuid.uuid4()), input=INPUT) as turn:
        return await graph.ainvoke(turn.input, turn.config, durability="sync")


async def rate(invoke, saver, graph, clients, seconds):
    """Invocations a second."""
    done, begun = 0, time.monotonic()

    async def client():
        nonlocal done
        while time.monotonic() < begun + seconds:
            result = await invoke(saver, graph)
            assert result["count"] == 5
            done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.monotonic() - begun)


async def main(url, rounds, seconds, threads):
    async with AgentkitSaver.from_conn_string(url) as saver:
        graph = build(saver)
        for clients in map(int, threads.split(",")):
            measured = []
            for number in range(rounds + 1):
                order = [plainly, in_a_turn] if number % 2 else [in_a_turn, plainly]
                rates = {
                    invoke: await rate(invoke, saver, graph, clients, seconds) for invoke in order
                }
                if number:
                    measured.append((rates[plainly], rates[in_a_turn]))
            ratios = [turn / plain for plain, turn in measured]
            medians = [statistics.median(column) for column in zip(*measured, strict=True)]
            answer = {
                "threads": clients,
                "plain": round(medians[0], 1),
                "in a turn": round(medians[1], 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", default="1,16")
    asyncio.run(main(**vars(parser.parse_args())))
