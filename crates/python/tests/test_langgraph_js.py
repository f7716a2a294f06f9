"""LangGraph.js, the real one, on its PostgreSQL saver: what reads what, and what goes on with it."""

import json
import math
import os
import subprocess
from operator import add
from pathlib import Path
from typing import Annotated, Any

import pytest
from examples import checkpoint, config, metadata
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt
from yai_agentkit import AgentkitSaver, JavaScriptSaver

SECONDS = 60
THREAD = config("thread")


def langgraph_js(url, *arguments):
    return json.loads(run_langgraph_js(url, *arguments, check=True).stdout)


def run_langgraph_js(url, *arguments, check=False):
    script = Path(__file__).with_name("langgraph_js") / "graph.cjs"
    return subprocess.run(
        ["node", script, url, "thread", *arguments],
        env={**os.environ, "NODE_PATH": os.environ["AGENTKIT_TEST_NODE_MODULES"]},
        stdout=subprocess.PIPE,
        stderr=None if check else subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=check,
    )


class State(MessagesState):
    paths: Annotated[list[str], add]
    turns: int
    text: str
    nothing: None
    nested: dict[str, Any]
    bytes: bytes


def model(state):
    last, turns = state["messages"][-1], state.get("turns", 0)
    id = f"py-{last.id}"
    if last.type == "tool":
        return {"messages": [AIMessage("done 🦀", id=id)], "turns": turns + 1}
    call = {"name": "double", "args": {"x": turns}, "id": id}
    return {
        "messages": [AIMessage("", id=id, tool_calls=[call])],
        "text": f'中文 "{last.content}"',
        "nothing": None,
        "nested": {"list": [1, 2.5, None, {"deep": True}], "large": 2**53, "bytes": b"\x01"},
        "bytes": bytes([0, 255, turns]),
    }


def next_node(state):
    calls = state["messages"][-1].tool_calls
    if not calls:
        return "ask" if "ask" in state["text"] else END
    return [Send("tool", {"call": call, "part": part}) for call in calls for part in "ba"]


def tool(work):
    call, part = work["call"], work["part"]
    content = f"{2 * call['args']['x']}{part}"
    message = ToolMessage(content, tool_call_id=call["id"], id=f"{call['id']}-{part}")
    return {"messages": [message], "paths": [part]}


def graph_on(saver):
    """The graph of langgraph_js/graph.cjs."""
    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_node("ask", lambda _: {"text": interrupt({"question": "go on?"})})
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", next_node, ["tool", "ask", END])
    graph.add_edge("tool", "model")
    graph.add_edge("ask", END)
    return graph.compile(checkpointer=saver)


def say(saver, text):
    return graph_on(saver).invoke({"messages": [HumanMessage(text, id=text)]}, THREAD)


def plain(value):
    """As `plain` of langgraph_js/graph.cjs."""
    match value:
        case BaseMessage():
            calls = [
                {key: call[key] for key in ("name", "args", "id")}
                for call in getattr(value, "tool_calls", [])
            ]
            return {
                "type": value.type,
                "id": value.id,
                "content": value.content,
                "tool_call_id": getattr(value, "tool_call_id", None),
                "tool_calls": calls,
            }
        case Send(node=node, arg=arg):
            return record("Send", node, arg)
        case Interrupt(value=question, id=id):
            return record("Interrupt", question, id)
        case bytes():
            return {"bytes": list(value)}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case {"lc": 2, "type": "undefined"}:
            return None
        case {"lc": 2, "id": ["Uint8Array"], "args": [numbers]}:
            return {"bytes": numbers}
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
    return value


def record(name, *arguments):
    """What LangGraph.js shows of a type that only Python has."""
    id = ["langgraph", "types", name]
    return plain({"lc": 2, "type": "constructor", "id": id, "args": arguments, "kwargs": {}})


def seen_by(saver):
    found = list(saver.list({"configurable": {"thread_id": "thread"}}))
    return {"list": found, "latest": saver.get_tuple(THREAD)}


def in_javascript(seen):
    """What `seen_by` found as langgraph_js/graph.cjs prints it."""

    def one(found):
        # In the order of LangGraph.js, which knows no paths of tasks.
        writes = sorted(found.pending_writes, key=lambda write: write[0])
        return plain(
            {
                "config": found.config,
                "checkpoint": found.checkpoint,
                "metadata": found.metadata,
                "parentConfig": found.parent_config,
                "pendingWrites": writes,
            }
        )

    return {"list": [one(found) for found in seen["list"]], "latest": one(seen["latest"])}


def test_ours_reads_a_thread_of_langgraph_js_to_the_last_field(postgres_url):
    langgraph_js(postgres_url, "say", "hello")
    langgraph_js(postgres_url, "say", "ask")
    theirs = langgraph_js(postgres_url, "read")
    assert len(theirs["list"]) > 8 and theirs["latest"]["pendingWrites"]
    with PostgresSaver.from_conn_string(postgres_url) as official:
        official.setup()
        expected = seen_by(official)
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        seen = seen_by(saver)
        assert seen == expected
        assert in_javascript(seen) == theirs
        assert [thread.id for thread in saver.threads()] == ["thread"]
    with JavaScriptSaver.from_conn_string(postgres_url) as saver:
        assert in_javascript(seen_by(saver)) == theirs


def test_langgraph_js_reads_a_thread_of_ours_to_the_last_field(postgres_url):
    with JavaScriptSaver.from_conn_string(postgres_url) as saver:
        say(saver, "hello")
        say(saver, "ask")
        ours = seen_by(saver)
    assert len(ours["list"]) > 8 and ours["latest"].pending_writes
    assert langgraph_js(postgres_url, "read") == in_javascript(ours)
    # And so does LangGraph's own saver in Python.
    with PostgresSaver.from_conn_string(postgres_url) as official:
        official.setup()
        assert in_javascript(seen_by(official)) == in_javascript(ours)


@pytest.mark.parametrize("first", ["Python", "JavaScript"])
def test_both_languages_take_turns_on_one_thread(first, postgres_url):
    with JavaScriptSaver.from_conn_string(postgres_url) as saver:
        for turn in range(4):
            if (turn % 2 == 0) == (first == "Python"):
                state = plain(say(saver, f"turn {turn}"))
            else:
                state = langgraph_js(postgres_url, "say", f"turn {turn}")
        asked = [message["id"] for message in state["messages"] if message["type"] == "human"]
        assert asked == ["turn 0", "turn 1", "turn 2", "turn 3"]
        assert state["turns"] == 4 and len(state["messages"]) == 4 * 5
        assert state["paths"] == ["b", "a"] * 4
        assert in_javascript(seen_by(saver)) == langgraph_js(postgres_url, "read")


def test_a_thread_of_langgraph_js_goes_on_in_python_for_good(postgres_url):
    langgraph_js(postgres_url, "say", "hello")
    with AgentkitSaver.from_conn_string(postgres_url) as saver:
        say(saver, "one")
        say(saver, "ask")
        assert saver.get_tuple(THREAD).pending_writes
        state = graph_on(saver).invoke(Command(resume="yes"), THREAD)
    assert state["text"] == "yes" and state["turns"] == 3 and len(state["messages"]) == 15


def test_a_fork_keeps_its_values_apart(postgres_url):
    with JavaScriptSaver.from_conn_string(postgres_url) as saver:
        say(saver, "hello")
        graph = graph_on(saver)
        past = next(
            state for state in graph.get_state_history(THREAD) if state.metadata["step"] == 0
        )
        forks = [
            graph.update_state(past.config, {"nested": {"fork": number}}, as_node="tool")
            for number in range(2)
        ]
        for number, fork in enumerate(forks):
            assert graph.get_state(fork).values["nested"] == {"fork": number}


@pytest.mark.parametrize("python", [AgentkitSaver, PostgresSaver])
def test_langgraph_js_reads_no_other_thread_of_python(python, postgres_url):
    with python.from_conn_string(postgres_url) as saver:
        saver.setup()
        say(saver, "hello")
    failed = run_langgraph_js(postgres_url, "read")
    assert failed.returncode == 1
    assert "Unknown serialization type: msgpack" in failed.stderr


def test_langgraphs_own_python_saver_does_not_go_on_with_a_thread_of_langgraph_js(postgres_url):
    langgraph_js(postgres_url, "say", "hello")
    with PostgresSaver.from_conn_string(postgres_url) as official:
        official.setup()
        with pytest.raises(TypeError, match="'str' and 'int'|'int' and 'str'"):
            say(official, "one")


def test_what_javascript_has_no_form_for_is_refused(postgres_url):
    with JavaScriptSaver.from_conn_string(postgres_url) as saver:
        for value, error in [({1, 2}, TypeError), (object(), TypeError), (math.inf, ValueError)]:
            stored = checkpoint({"value": [value]}, {"value": 1})
            with pytest.raises(error):
                saver.put(THREAD, stored, metadata(0), {"value": 1})
        assert saver.get_tuple(THREAD) is None
