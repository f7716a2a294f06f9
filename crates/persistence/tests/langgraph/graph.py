"""Runs a real graph on LangGraph's own saver.

graph.py URL sync|async start    threads that were answered, wait, failed; a subgraph, sends, a delta channel
graph.py URL sync|async resume THREAD...    answers the questions of these threads, prints their states
"""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt


def extend(log, writes):
    return log + [line for write in writes for line in write]


class State(TypedDict):
    messages: Annotated[list, add_messages]
    log: Annotated[list, DeltaChannel(extend, snapshot_frequency=3)]
    steps: int
    ratio: float
    approved: bool
    fails: bool


def model(state):
    """Asks for a tool twice, then answers."""
    steps = state.get("steps", 0) + 1
    calls = [{"name": "double", "args": {"x": steps}, "id": f"call-{steps}"}] if steps < 3 else []
    message = AIMessage(f"step {steps}", tool_calls=calls)
    return {"messages": [message], "steps": steps, "ratio": steps / 3, "log": [f"model {steps}"]}


def to_tools(state):
    calls = state["messages"][-1].tool_calls
    # Two tasks for each call, so that the order of parallel writes counts.
    return [Send("tool", {"call": call, "part": part}) for call in calls for part in "ba"] or "nested"


def tool(work):
    call, part = work["call"], work["part"]
    message = ToolMessage(str(2 * call["args"]["x"]) + part, tool_call_id=call["id"])
    return {"messages": [message], "log": [f"tool {part}", call["args"]["x"]]}


def approve(state):
    if state.get("fails"):
        raise ValueError("a node that fails")
    return {"approved": interrupt({"question": "go on?"}) == "yes", "log": ["approve"]}


def beside(state):
    return {"log": ["beside"]}


def build(saver):
    nested = StateGraph(State)
    nested.add_node("inner", lambda state: {"log": ["inner"]})
    nested.add_node("approve", approve)
    nested.add_edge(START, "inner")
    nested.add_edge("inner", "approve")

    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_node("nested", nested.compile())
    graph.add_node("beside", beside)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", to_tools, ["tool", "nested"])
    graph.add_edge("tool", "model")
    graph.add_edge("nested", "beside")
    graph.add_edge("beside", END)
    return graph.compile(checkpointer=saver)


class SyncAsAsync:
    """The sync methods of a graph under the async names, so that one script serves both."""

    def __init__(self, graph):
        self.graph = graph

    async def ainvoke(self, *arguments, **options):
        return self.graph.invoke(*arguments, **options)

    async def aupdate_state(self, *arguments, **options):
        return self.graph.update_state(*arguments, **options)

    async def aget_state(self, *arguments, **options):
        return self.graph.get_state(*arguments, **options)


@asynccontextmanager
async def opened(url, mode):
    if mode == "sync":
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            yield SyncAsAsync(build(saver))
    else:
        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield build(saver)


def thread(name):
    return {"configurable": {"thread_id": name}, "metadata": {"user": "Ada"}}


async def start(graph):
    question = {"messages": [HumanMessage("Double it, 加倍 🦀")], "log": ["question"]}
    for name in ["answered", "waiting", "failed"]:
        try:
            await graph.ainvoke(question | {"fails": name == "failed"}, thread(name))
        except ValueError:
            assert name == "failed"
    await graph.ainvoke(Command(resume="yes"), thread("answered"))
    await graph.aupdate_state(thread("answered"), {"log": ["by hand"], "steps": 0})
    # A fork: a second line of checkpoints on the same ancestors.
    state = await graph.aget_state(thread("answered"))
    await graph.aupdate_state(state.parent_config, {"log": ["forked"]}, as_node="beside")
    await graph.ainvoke({"messages": [HumanMessage("again")]}, thread("answered"))


async def resume(graph, *names):
    states = {}
    for name in names:
        state = await graph.ainvoke(Command(resume="yes"), thread(name))
        assert "__interrupt__" not in state
        messages = [[message.type, message.content] for message in state.pop("messages")]
        states[name] = state | {"messages": messages}
    print(json.dumps(states))


async def main(url, mode, action, *names):
    async with opened(url, mode) as graph:
        await {"start": start, "resume": resume}[action](graph, *names)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
