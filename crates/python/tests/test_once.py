"""Effects of a turn: recorded before and after, and not had twice."""

import asyncio
import uuid
from operator import add
from typing import Annotated

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send
from typing_extensions import TypedDict
from yai_agentkit import EffectUnknown, aonce_tool_call, once, once_tool_call


class Killed(BaseException):
    """As if the process had died: a turn that it leaves stays open."""


class State(TypedDict):
    done: Annotated[list[str], add]


def new_thread():
    return str(uuid.uuid4())


def one_node(node, saver):
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


def again(saver, thread_id):
    """The turn that was left."""
    [left] = [turn for turn in saver.due(limit=1000) if turn.thread_id == thread_id]
    return left


def test_a_result_is_used_and_the_function_not_run_again(saver):
    runs, thread_id = [], new_thread()

    @once
    def charge(cents):
        runs.append(cents)
        return f"receipt {cents}"

    def node(state):
        receipts = [charge(100), charge(200), charge(100)]
        if len(runs) == 2 and not crashed:
            crashed.append(True)
            raise Killed
        return {"done": receipts}

    crashed = []
    graph = one_node(node, saver)
    with pytest.raises(Killed), saver.turn(thread_id, input={"done": []}) as turn:
        graph.invoke(turn.input, turn.config)
    with again(saver, thread_id) as turn:
        assert turn.input is None
        turn.result = graph.invoke(turn.input, turn.config)
    assert turn.result == {"done": ["receipt 100", "receipt 200", "receipt 100"]}
    assert runs == [100, 200]
    # The next turn has tasks of its own.
    with saver.turn(thread_id, input={"done": []}) as turn:
        graph.invoke(turn.input, turn.config)
    assert runs == [100, 200, 100, 200]


@pytest.mark.parametrize("answer", [{"run": True}, {"result": "it came through"}])
def test_what_began_and_left_nothing_is_asked_about(saver, answer):
    runs, thread_id = [], new_thread()

    @once(name="pay")
    def pay():
        runs.append("paid")
        if len(runs) == 1:
            raise Killed
        return "paid again"

    graph = one_node(lambda state: {"done": [pay()]}, saver)
    with pytest.raises(Killed), saver.turn(thread_id, input={"done": []}) as turn:
        graph.invoke(turn.input, turn.config)
    with again(saver, thread_id) as turn:
        turn.result = graph.invoke(turn.input, turn.config)
    [asked] = turn.result["__interrupt__"]
    assert asked.value["effect"] == "pay" and "began and left no result" in asked.value["question"]
    assert runs == ["paid"]
    with saver.turn(thread_id, input=Command(resume=answer)) as turn:
        turn.result = graph.invoke(turn.input, turn.config)
    expected = answer.get("result", "paid again")
    assert turn.result == {"done": [expected]}
    assert len(runs) == (1 if "result" in answer else 2)


def test_what_is_repeatable_is_run_again(saver):
    runs, thread_id = [], new_thread()

    @once(repeatable=True)
    def look_up():
        runs.append("looked")
        if len(runs) == 1:
            raise Killed
        return "found"

    graph = one_node(lambda state: {"done": [look_up()]}, saver)
    with pytest.raises(Killed), saver.turn(thread_id, input={"done": []}) as turn:
        graph.invoke(turn.input, turn.config)
    with again(saver, thread_id) as turn:
        assert graph.invoke(turn.input, turn.config) == {"done": ["found"]}
    assert runs == ["looked", "looked"]


def test_outside_of_a_graph_there_is_nobody_to_ask(saver):
    runs, thread_id = [], new_thread()

    def send(text):
        runs.append(text)
        if text == "dies" and runs.count("dies") == 1:
            raise Killed
        return text.upper()

    with pytest.raises(Killed), saver.turn(thread_id) as turn:
        assert turn.once("first", send, "hello") == "HELLO"
        turn.once("second", send, "dies")
    with pytest.raises(EffectUnknown, match="second began"), again(saver, thread_id) as turn:
        assert turn.once("first", send, "hello") == "HELLO"
        turn.once("second", send, "dies")
    assert runs == ["hello", "dies"]
    with pytest.raises(RuntimeError, match="no turn is under way"):
        once(send)("hello")


class Gate:
    """Lets the first of two branches end, and kills what is under way with the second."""

    def __init__(self):
        self.runs = []

    async def __call__(self, branch):
        self.runs.append(branch)
        if branch == "b" and self.runs.count("b") == 1:
            await asyncio.sleep(0.3)
            raise Killed
        return branch


async def test_parallel_branches_each_have_their_effects(saver):
    gate, thread_id = Gate(), new_thread()

    async def branch(state):
        name = state["branch"]
        from yai_agentkit import current_turn

        result = await current_turn().once(
            "effect", gate.__call__, name, repeatable=name == "b"
        )
        return {"done": [result]}

    builder = StateGraph(State)
    builder.add_node("branch", branch)
    builder.add_conditional_edges(
        START, lambda state: [Send("branch", {"branch": name}) for name in "abc"]
    )
    graph = builder.compile(checkpointer=saver)
    with pytest.raises(Killed):
        async with saver.turn(thread_id, input={"done": []}) as turn:
            await graph.ainvoke(turn.input, turn.config)
    async with again(saver, thread_id) as turn:
        result = await graph.ainvoke(turn.input, turn.config)
    assert result == {"done": ["a", "b", "c"]}
    assert sorted(gate.runs) == ["a", "b", "b", "c"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_calls_of_tools_happen_once(saver, is_async):
    runs, thread_id, alive = [], new_thread(), []

    @tool
    def order(item: str) -> str:
        """Order an item."""
        runs.append(item)
        return f"ordered {item}"

    tools = ToolNode([order], wrap_tool_call=once_tool_call, awrap_tool_call=aonce_tool_call)

    def agent(state):
        calls = [{"name": "order", "args": {"item": "tea"}, "id": id} for id in ("1", "2")]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    def dies(state):
        """In the superstep of the tools, so that what they wrote is not a checkpoint yet."""
        import time

        while len(runs) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        if not alive:
            alive.append(True)
            raise Killed

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("tools", tools)
    builder.add_node("dies", dies)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", "tools")
    builder.add_edge("agent", "dies")
    graph = builder.compile(checkpointer=saver)

    async def run(turn):
        if is_async:
            return await graph.ainvoke(turn.input, turn.config)
        return await asyncio.to_thread(graph.invoke, turn.input, turn.config)

    with pytest.raises(Killed):
        async with saver.turn(thread_id, input={"messages": ["tea, twice"]}) as turn:
            await run(turn)
    async with again(saver, thread_id) as turn:
        result = await run(turn)
    answers = [message.content for message in result["messages"][-2:]]
    assert answers == ["ordered tea", "ordered tea"]
    assert runs == ["tea", "tea"]
