"""Runs a graph with the delta channels of deepagents, and prints what it reads from each checkpoint.

delta_channels.py URL THREAD
"""

import json
import sys
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Overwrite


def join_files(files, writes):
    files = dict(files or {})
    for write in writes:
        for name, file in write.items():
            if file is None:
                files.pop(name, None)
            else:
                files[name] = file
    return files


class State(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)
    ]
    files: Annotated[dict[str, dict], DeltaChannel(join_files, snapshot_frequency=3)]
    log: Annotated[list[str], DeltaChannel(lambda log, writes: sum(writes, log or []))]
    steps: int


def model(state):
    step = state.get("steps", 0) + 1
    plan = {"content": [f"step {step}"], "modified_at": str(step)}
    return {
        "messages": [AIMessage(f"step {step}", id=f"answer-{step}")],
        "files": {"/plan.md": plan, f"/{step}.md": {"content": ["é 🦀"]}},
        "log": [f"model {step}"],
        "steps": step,
    }


def tidy(state):
    """Removes, replaces and overwrites."""
    step = state["steps"]
    first = state["messages"][0]
    return {
        "messages": [RemoveMessage(first.id), AIMessage("changed", id=f"answer-{step}")],
        "files": Overwrite({"/left.md": {"content": []}}) if step == 4 else {f"/{step}.md": None},
        "log": [f"tidy {step}"],
    }


def beside(state):
    return {"messages": HumanMessage("alone", id=f"beside-{state['steps']}"), "log": ["beside"]}


def build(saver):
    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tidy", tidy)
    graph.add_node("beside", beside)
    graph.add_edge(START, "model")
    graph.add_edge("model", "tidy")
    graph.add_edge("model", "beside")
    graph.add_conditional_edges("tidy", lambda state: END if state["steps"] % 3 == 0 else "model")
    return graph.compile(checkpointer=saver)


def plain(value):
    return value.model_dump() if hasattr(value, "model_dump") else value


def main(url, thread):
    config = {"configurable": {"thread_id": thread}}
    with PostgresSaver.from_conn_string(url) as saver:
        graph = build(saver)
        graph.invoke({"messages": [HumanMessage("hello")]}, config, durability="sync")
        graph.invoke({"messages": [HumanMessage("again")]}, config, durability="exit")
        history = list(graph.get_state_history(config))
        # A fork from the middle, and on from there.
        forked = graph.update_state(
            history[len(history) // 2].config, {"log": ["by hand"]}, as_node="tidy"
        )
        graph.invoke(None, forked)
        states = list(graph.get_state_history(config))
    read = {state.config["configurable"]["checkpoint_id"]: state.values for state in states}
    print(json.dumps(read, default=plain))


if __name__ == "__main__":
    main(*sys.argv[1:])
