"""The graph of the tests of turns: four steps, each of which writes a line to a file."""

import asyncio
from operator import add
from pathlib import Path
from typing import Annotated, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

STEPS = ["one", "two", "three", "four"]


class State(TypedDict):
    seen: Annotated[list[str], add]


def counting_graph(
    checkpointer: BaseCheckpointSaver[Any], log: Path | None = None, pause: float = 0
) -> Any:
    builder = StateGraph(State)
    for name in STEPS:
        builder.add_node(name, _step(name, log, pause))
    for before, after in zip([START, *STEPS], [*STEPS, END]):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=checkpointer)


def _step(name: str, log: Path | None, pause: float) -> Any:
    def note() -> dict[str, list[str]]:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{name}\n")
        return {"seen": [name]}

    async def step(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(pause)
        return note()

    def sync_step(state: State) -> dict[str, list[str]]:
        return note()

    from langchain_core.runnables import RunnableLambda

    return RunnableLambda(sync_step, afunc=step)
