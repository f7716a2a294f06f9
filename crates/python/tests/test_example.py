"""examples/fastapi_langgraph as a process, over real HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

EXAMPLE = Path(__file__).parents[3] / "examples" / "fastapi_langgraph"
SECONDS = 60
FOREVER = 3600

on_both = pytest.mark.parametrize("url", ["postgres", "sqlite"], indirect=True)


@contextmanager
def serving(url, delay=0):
    """The process, and a client for it; what is left of it at the end stops by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--fd", str(listener.fileno())],
            cwd=EXAMPLE,
            env={
                **os.environ,
                "DATABASE_URL": url,
                "MODEL_DELAY": str(delay),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            pass_fds=[listener.fileno()],
        )
    try:
        # A request waits in the socket's queue until the application is up.
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.terminate()
        ended = process.wait(SECONDS)
        assert ended in (0, -signal.SIGTERM, -signal.SIGKILL)


def ok(response):
    assert response.status_code in (200, 204), response.text
    return response.json() if response.content else None


def new_conversation(client, title=None):
    return ok(client.post("/conversations", json={"title": title}))["id"]


def said(client, id):
    """Who said what; of tool calls, the tool's name."""
    return [
        (message["role"], message["content"] or [call["name"] for call in message["tool_calls"]])
        for message in ok(client.get(f"/conversations/{id}/messages"))
    ]


def events(response):
    """The server-sent events of a response, as they come."""
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    kind = None
    for line in response.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))["content"]


def ask(client, id, content):
    return client.stream("POST", f"/chats/{id}/messages/stream", json={"content": content})


def ask_when_free(client, id, content):
    """The worker may yet have to note that it has ended."""
    ends = time.monotonic() + SECONDS
    probe = {"title": None}
    while client.patch(f"/conversations/{id}", json=probe).status_code == 409:
        assert time.monotonic() < ends
        time.sleep(0.05)
    return ask(client, id, content)


@on_both
def test_it_remembers_over_a_restart_and_streams(url):
    with serving(url) as (_, client):
        id = new_conversation(client, "Ada's")
        answer = ok(client.post(f"/chats/{id}/messages", json={"content": "My name is Ada"}))
        assert answer["content"] == "Done: The user's name is Ada."
    with serving(url) as (_, client):
        assert ok(client.get(f"/conversations/{id}")) == {"id": id, "title": "Ada's"}
        with ask(client, id, "What is my name?") as response:
            streamed = list(events(response))
        assert streamed == [
            ("token", "Your "),
            ("token", "name "),
            ("token", "is "),
            ("token", "Ada."),
            ("answer", "Your name is Ada."),
        ]
        with ask_when_free(client, id, "What is 17 * 23?") as response:
            kinds = [kind for kind, _ in events(response)]
        assert kinds == ["tool", "token", "token", "answer"]
        assert said(client, id) == [
            ("user", "My name is Ada"),
            ("assistant", ["remember"]),
            ("tool", "The user's name is Ada."),
            ("assistant", "Done: The user's name is Ada."),
            ("user", "What is my name?"),
            ("assistant", "Your name is Ada."),
            ("user", "What is 17 * 23?"),
            ("assistant", ["multiply"]),
            ("tool", "391"),
            ("assistant", "Done: 391"),
        ]


@on_both
def test_a_turn_that_was_killed_goes_on_by_itself(url):
    # The model thinks for ever; the user's message is stored.
    with serving(url, delay=FOREVER) as (process, client):
        id, other = new_conversation(client), new_conversation(client)
        with pytest.raises(httpx.TransportError):
            with ask(client, id, "What is 17 * 23?"):
                while said(client, id) == []:
                    pass
                refused = client.post(f"/chats/{id}/messages", json={"content": "Hurry"})
                assert refused.status_code == 409
                assert ok(client.get(f"/conversations/{other}"))["id"] == other
                process.kill()
                process.wait(SECONDS)
                client.get(f"/conversations/{id}")
    first = [
        ("user", "What is 17 * 23?"),
        ("assistant", ["multiply"]),
        ("tool", "391"),
        ("assistant", "Done: 391"),
    ]
    with serving(url) as (_, client):
        ends = time.monotonic() + SECONDS
        while said(client, id) != first:
            assert time.monotonic() < ends
            time.sleep(0.05)
        with ask_when_free(client, id, "What is 2 * 3?") as response:
            answers = [content for kind, content in events(response) if kind == "answer"]
        assert answers == ["Done: 6"]
        assert said(client, id)[:5] == [*first, ("user", "What is 2 * 3?")]


@on_both
def test_the_same_request_has_the_first_answer(url):
    with serving(url) as (_, client):
        id = new_conversation(client)
        body, headers = {"content": "What is 17 * 23?"}, {"Idempotency-Key": "once"}
        first = ok(client.post(f"/chats/{id}/messages", json=body, headers=headers))
        again = ok(client.post(f"/chats/{id}/messages", json=body, headers=headers))
        assert again == first and first["content"] == "Done: 391"
        assert len(said(client, id)) == 4


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_conversations_are_listed_renamed_and_deleted(url):
    with serving(url) as (_, client):
        one, two, three = [new_conversation(client, title) for title in ["one", "two", None]]
        renamed = ok(client.patch(f"/conversations/{one}", json={"title": "first"}))
        assert renamed == {"id": one, "title": "first"}
        titles, cursor = [], None
        while cursor or not titles:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = ok(client.get("/conversations", params=query))
            titles += [conversation["title"] for conversation in page["items"]]
            cursor = page["next_cursor"]
        assert titles == ["first", None, "two"]
        ok(client.delete(f"/conversations/{two}"))
        left = ok(client.get("/conversations"))["items"]
        assert [conversation["id"] for conversation in left] == [one, three]
        for gone in [
            client.get(f"/conversations/{two}"),
            client.get(f"/conversations/{two}/messages"),
            client.post(f"/chats/{two}/messages", json={"content": "hello"}),
            client.post(f"/chats/{two}/messages/stream", json={"content": "hello"}),
            client.delete(f"/conversations/{two}"),
        ]:
            assert gone.status_code == 404
        assert client.get("/conversations", params={"cursor": "nonsense"}).status_code == 422
        assert client.post(f"/chats/{one}/messages", json={"content": ""}).status_code == 422


RUN = {
    "messages": [{"role": "user", "id": "question", "content": "What is 17 * 23?"}],
    "tools": [],
    "context": [],
}
WHOLE = [
    ("user", "What is 17 * 23?"),
    ("assistant", ["multiply"]),
    ("tool", "391"),
    ("assistant", "Done: 391"),
]
READ = TypeAdapter(Event)


def new_run():
    return RUN | {"threadId": str(uuid.uuid4()), "runId": str(uuid.uuid4())}


def agui_events(response):
    assert response.status_code == 200, response.read()
    for line in response.iter_lines():
        if line:
            yield READ.validate_json(line.removeprefix("data: "))


def run_to_its_end(client, run):
    with client.stream("POST", "/agui", json=run) as response:
        events = list(agui_events(response))
    kinds = [event.type.value for event in events]
    assert kinds[0] == "RUN_STARTED" and kinds[-1] == "RUN_FINISHED", kinds
    return events


def seen_by_a_front_end(events):
    """The messages of a front end, which begins with what it has sent."""
    messages = {"question": ["user", RUN["messages"][0]["content"]]}
    for event in events:
        match event.type.value:
            case "MESSAGES_SNAPSHOT":
                messages = {
                    message.id: [
                        message.role,
                        message.content
                        or [call.function.name for call in message.tool_calls or []],
                    ]
                    for message in event.messages
                }
            case "TEXT_MESSAGE_START":
                messages[event.message_id] = ["assistant", ""]
            case "TEXT_MESSAGE_CONTENT":
                messages[event.message_id][1] += event.delta
            case "TOOL_CALL_START":
                message = messages.setdefault(event.parent_message_id, ["assistant", []])
                message[1].append(event.tool_call_name)
            case "TOOL_CALL_RESULT":
                messages[event.message_id] = ["tool", event.content]
    return [tuple(message) for message in messages.values()]


@on_both
def test_a_front_end_of_agui_sees_a_run_and_the_same_one_again(url):
    with serving(url) as (_, client):
        run = new_run()
        events = run_to_its_end(client, run)
        assert [event.type.value for event in events] == [
            "RUN_STARTED",
            *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"),
            *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
            *("TEXT_MESSAGE_END", "RUN_FINISHED"),
        ]
        assert seen_by_a_front_end(events) == said(client, run["threadId"]) == WHOLE
        assert seen_by_a_front_end(run_to_its_end(client, run)) == WHOLE
        assert said(client, run["threadId"]) == WHOLE
        for refused in [run | {"threadId": "1"}, run | {"messages": []}]:
            assert client.post("/agui", json=refused).status_code == 422


@pytest.mark.parametrize(
    ("url", "killed_at"),
    [
        ("sqlite", "RUN_STARTED"),
        ("postgres", "TOOL_CALL_END"),
        ("sqlite", "TOOL_CALL_RESULT"),
        ("postgres", "TEXT_MESSAGE_CONTENT"),
    ],
    indirect=["url"],
)
def test_a_run_that_was_killed_between_its_supersteps_goes_on(url, killed_at):
    run = new_run()
    with serving(url, delay=0.5) as (process, client):
        with pytest.raises(httpx.TransportError):
            with client.stream("POST", "/agui", json=run) as response:
                for event in agui_events(response):
                    if event.type.value == killed_at:
                        process.kill()
                        process.wait(SECONDS)
    with serving(url) as (_, client):
        assert seen_by_a_front_end(run_to_its_end(client, run)) == WHOLE
        assert said(client, run["threadId"]) == WHOLE
