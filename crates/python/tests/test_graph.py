"""A real graph does on ours what it does on LangGraph's saver in memory."""

from operator import add
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, StateSnapshot, interrupt
from yai_agentkit import AgentkitSaver

THREAD = {"configurable": {"thread_id": "thread"}, "metadata": {"user": "Ada"}}


def extend(log, writes):
    return log + [line for write in writes for line in write]


class State(TypedDict):
    messages: Annotated[list, add_messages]
    log: Annotated[list, DeltaChannel(extend, snapshot_frequency=3)]
    paths: Annotated[list, add]
    steps: int
    approved: bool


class PlainState(State):
    log: Annotated[list, add]


def model(state):
    """Asks for a tool twice, then answers."""
    steps = state.get("steps", 0) + 1
    calls = [{"name": "double", "args": {"x": steps}, "id": f"call-{steps}"}] if steps < 3 else []
    message = AIMessage(f"step {steps}", id=f"ai-{steps}", tool_calls=calls)
    return {"messages": [message], "steps": steps, "log": [f"model {steps}"]}


def to_tools(state):
    # Two tasks for each call, so that the order of parallel writes counts.
    calls = state["messages"][-1].tool_calls
    return [
        Send("tool", {"call": call, "part": part}) for call in calls for part in "ba"
    ] or "nested"


def tool(work):
    call, part = work["call"], work["part"]
    content = str(2 * call["args"]["x"]) + part
    message = ToolMessage(content, id=f"{call['id']}-{part}", tool_call_id=call["id"])
    return {"messages": [message], "log": [f"tool {part}"], "paths": [part]}


def approve(state, config):
    # `interrupt` looks for it here, where an async graph puts it from Python 3.11 on.
    var_child_runnable_config.set(config)
    return {"approved": interrupt({"question": "go on?"}) == "yes", "log": ["approve"]}


def build(saver, state=State):
    nested = StateGraph(state)
    nested.add_node("inner", lambda state: {"log": ["inner"]})
    nested.add_node("approve", approve)
    nested.add_edge(START, "inner")
    nested.add_edge("inner", "approve")

    graph = StateGraph(state)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_node("nested", nested.compile())
    graph.add_node("last", lambda state: {"log": ["last"]})
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", to_tools, ["tool", "nested"])
    graph.add_edge("tool", "model")
    graph.add_edge("nested", "last")
    graph.add_edge("last", END)
    return graph.compile(checkpointer=saver)


def snapshot(state):
    """A state without what is random: ids and times."""
    return {
        "values": {key: value for key, value in state.values.items() if key != "__interrupt__"},
        "next": state.next,
        "step": state.metadata["step"],
        "source": state.metadata["source"],
        "user": state.metadata.get("user"),
        "has parent": state.parent_config is not None,
        "tasks": [
            (
                task.name,
                task.error,
                [item.value for item in task.interrupts],
                task.result,
                snapshot(task.state)
                if isinstance(task.state, StateSnapshot)
                else task.state is not None,
            )
            for task in state.tasks
        ],
    }


def step_of(history, step):
    return next(state.config for state in history if state.metadata["step"] == step)


QUESTION = {"messages": [HumanMessage("加倍 🦀", id="human")], "log": ["question"]}


def story_sync(graph):
    """An interrupt, its answer, time travel, a change by hand, a fork; all that is seen."""
    seen = [graph.invoke(QUESTION, THREAD)["log"]]
    seen.append(snapshot(graph.get_state(THREAD, subgraphs=True)))
    seen.append(graph.invoke(Command(resume="yes"), THREAD)["log"])
    history = list(graph.get_state_history(THREAD))
    past = step_of(history, 3)
    seen.append(snapshot(graph.get_state(past)))
    seen.append(graph.invoke(None, past)["log"])
    graph.update_state(THREAD, {"log": ["by hand"], "steps": 1})
    forked = graph.update_state(past, {"log": ["forked"]}, as_node="last")
    seen.append(snapshot(graph.get_state(forked)))
    seen.append(graph.invoke({"messages": [HumanMessage("again", id="again")]}, THREAD)["log"])
    seen.extend(map(snapshot, graph.get_state_history(THREAD)))
    seen.extend(map(snapshot, graph.get_state_history(THREAD, filter={"source": "update"})))
    seen.extend(map(snapshot, graph.get_state_history(THREAD, before=past, limit=2)))
    return seen


async def story_async(graph):
    seen = [(await graph.ainvoke(QUESTION, THREAD))["log"]]
    seen.append(snapshot(await graph.aget_state(THREAD, subgraphs=True)))
    seen.append((await graph.ainvoke(Command(resume="yes"), THREAD))["log"])
    history = [state async for state in graph.aget_state_history(THREAD)]
    past = step_of(history, 3)
    seen.append(snapshot(await graph.aget_state(past)))
    seen.append((await graph.ainvoke(None, past))["log"])
    await graph.aupdate_state(THREAD, {"log": ["by hand"], "steps": 1})
    forked = await graph.aupdate_state(past, {"log": ["forked"]}, as_node="last")
    seen.append(snapshot(await graph.aget_state(forked)))
    seen.append(
        (await graph.ainvoke({"messages": [HumanMessage("again", id="again")]}, THREAD))["log"]
    )
    seen.extend([snapshot(state) async for state in graph.aget_state_history(THREAD)])
    updates = graph.aget_state_history(THREAD, filter={"source": "update"})
    seen.extend([snapshot(state) async for state in updates])
    seen.extend(
        [snapshot(state) async for state in graph.aget_state_history(THREAD, before=past, limit=2)]
    )
    return seen


def test_a_sync_graph_sees_the_same_as_in_memory(saver):
    expected = story_sync(build(InMemorySaver()))
    assert story_sync(build(saver)) == expected
    assert len(expected) > 20


async def test_an_async_graph_sees_the_same_as_in_memory(saver):
    assert await story_async(build(saver)) == await story_async(build(InMemorySaver()))


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_graph_goes_on_in_another_process(url, durability):
    async with AgentkitSaver.from_conn_string(url) as saver:
        await build(saver).ainvoke(QUESTION, THREAD, durability=durability)
    async with AgentkitSaver.from_conn_string(url) as saver:
        done = await build(saver).ainvoke(Command(resume="yes"), THREAD, durability=durability)
    assert done["approved"] and done["log"][-2:] == ["approve", "last"]


async def test_a_pruned_thread_goes_on_where_it_was(saver):
    graph = build(saver)
    await graph.ainvoke(QUESTION, THREAD)
    before = snapshot(await graph.aget_state(THREAD, subgraphs=True))
    await saver.aprune(["thread"])
    await saver.acopy_thread("thread", "copy")
    after = snapshot(await graph.aget_state(THREAD, subgraphs=True))
    # Its parent is what was pruned.
    assert after == before | {"has parent": after["has parent"]}
    copy = {"configurable": {"thread_id": "copy"}}
    answers = [await graph.ainvoke(Command(resume="yes"), thread) for thread in (THREAD, copy)]
    assert answers[0] == answers[1] and answers[0]["log"][-1] == "last"
