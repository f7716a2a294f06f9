"""The workload "graph": invocations of a graph of five trivial nodes, durability="sync"."""

import asyncio
import operator
import time
import uuid
from typing import Annotated, TypedDict

from harness import connect, serve
from langgraph.graph import StateGraph


class State(TypedDict):
    count: int
    log: Annotated[list[str], operator.add]


def build(saver):
    async def node(state):
        return {"count": state["count"] + 1, "log": [f"step {state['count']}"]}

    graph = StateGraph(State)
    names = [f"node_{number}" for number in range(5)]
    for name in names:
        graph.add_node(name, node)
    graph.set_entry_point(names[0])
    for earlier, later in zip(names, names[1:]):
        graph.add_edge(earlier, later)
    graph.set_finish_point(names[-1])
    return graph.compile(checkpointer=saver)


async def main(arguments, go):
    async with connect(arguments["saver"], arguments["url"]) as saver:
        graph = build(saver)
        await go()
        begin = time.monotonic() + arguments["warm_up"]
        end = begin + arguments["measured"]
        done = 0

        async def client():
            nonlocal done
            while time.monotonic() < end:
                config = {"configurable": {"thread_id": str(uuid.uuid4())}}
                result = await graph.ainvoke({"count": 0, "log": []}, config, durability="sync")
                assert result["count"] == len(result["log"]) == 5
                if begin <= time.monotonic() < end:
                    done += 1

        await asyncio.gather(*(client() for _ in range(arguments["threads"])))
        return {"invocations_per_second": done / arguments["measured"]}


if __name__ == "__main__":
    serve(main)
