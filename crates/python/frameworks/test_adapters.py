"""What every adapter must do, whichever framework it is for, and what each does besides."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from adapted import ADAPTED
from agents import Agent, Runner
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.memory.in_memory_memory_service import InMemoryMemoryService
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.genai.types import Content, Part
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel
from yai_agentkit import AgentkitStore
from yai_agentkit.adapters.google_adk import AgentkitMemoryService, AgentkitSessionService
from yai_agentkit.adapters.openai_agents import AgentkitSession
from yai_agentkit.adapters.pydantic_ai import AgentkitHistory

SECONDS = 120


@pytest.fixture
def store(url):
    with AgentkitStore.from_conn_string(url) as store:
        yield store


@pytest.fixture(params=ADAPTED)
def adapted(request):
    return ADAPTED[request.param]


async def test_what_was_added_comes_back_in_order(store, adapted):
    history = await adapted.begin(store, "chat.1 %é")
    for start in range(0, 30, 3):
        await history.add([f"text {n}" for n in range(start, start + 3)])
    assert await history.texts() == [f"text {n}" for n in range(30)]
    # Whoever comes later finds it, and another chat is another.
    assert await (adapted(store, "chat.1 %é")).texts() == await history.texts()
    other = await adapted.begin(store, "chat")
    assert await other.texts() == []


async def test_the_last_come_by_a_limit(store, adapted):
    history = await adapted.begin(store, "chat")
    await history.add(["a", "b", "c"])
    await history.add(["d", "e"])
    assert await history.texts(limit=3) == ["c", "d", "e"]
    assert await history.texts(limit=9) == ["a", "b", "c", "d", "e"]


async def test_what_is_cleared_is_gone(store, adapted):
    history = await adapted.begin(store, "chat")
    other = await adapted.begin(store, "chat 2")
    await history.add(["a", "b"])
    await other.add(["c"])
    await history.clear()
    assert await (await adapted.begin(store, "chat")).texts() == []
    assert await other.texts() == ["c"]


async def test_many_add_at_once_and_nothing_is_lost_or_torn(store, adapted):
    history = await adapted.begin(store, "chat")
    batches = [[f"{n} {m}" for m in range(adapted.at_once)] for n in range(20)]
    await asyncio.gather(*(history.add(batch) for batch in batches))
    texts = await history.texts()
    size = adapted.at_once
    found = [texts[start : start + size] for start in range(0, len(texts), size)]
    assert sorted(found) == sorted(batches)


@pytest.mark.parametrize("name", ADAPTED)
def test_what_a_killed_process_was_told_is_stored_is_there(url, name):
    script = Path(__file__).with_name("adapted.py")
    command = [sys.executable, script, url, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = -1
    ends = time.monotonic() + SECONDS
    for line in process.stdout:
        told = int(line)
        if told > 20:
            process.send_signal(signal.SIGKILL)
        assert time.monotonic() < ends
    assert process.wait() == -signal.SIGKILL

    async def texts():
        async with AgentkitStore.from_conn_string(url) as store:
            return await ADAPTED[name](store, "chat").texts()

    size = ADAPTED[name].at_once
    texts = asyncio.run(texts())
    assert len(texts) % size == 0 and len(texts) >= size * (told + 1)
    assert texts == [f"{n // size} {n % size}" for n in range(len(texts))]


class Echo(Model):
    """Says how many items it was given."""

    async def get_response(self, system_instructions, input, *_, **__):
        text = ResponseOutputText(text=f"{len(input)}", type="output_text", annotations=[])
        message = ResponseOutputMessage(
            id="id", content=[text], role="assistant", status="completed", type="message"
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *_, **__):
        raise NotImplementedError


async def test_openais_runner_goes_on_with_a_session(store):
    agent = Agent(name="echo", model=Echo())
    for expected in ["1", "3", "5"]:
        session = AgentkitSession("user 7", store)
        result = await Runner.run(agent, "hello", session=session)
        assert result.final_output == expected
    assert (await session.pop_item())["role"] == "assistant"
    assert (await session.pop_item())["content"] == "hello"
    assert len(await session.get_items()) == 4
    await session.clear_session()
    assert await session.pop_item() is None


async def test_pydantics_agent_goes_on_with_a_history(store):
    agent = PydanticAgent(TestModel(custom_output_text="yes"))
    history = AgentkitHistory("user 7", store)
    for turns in range(1, 4):
        result = await agent.run("hello", message_history=await history.messages())
        assert len(result.all_messages()) == 2 * turns
        await history.add(result.new_messages())
    assert await history.messages() == result.all_messages()


def seen(session):
    events = [json.loads(event.model_dump_json()) for event in session.events]
    return json.dumps([session.id, session.user_id, session.state, events], sort_keys=True)


async def test_adks_sessions_are_those_of_its_service_in_memory(store):
    services = [AgentkitSessionService(store), InMemorySessionService()]
    state = {"own": 1, "user:shared": {"deep": [1]}, "app:all": "x", "temp:gone": 1}
    change = {"own": None, "new": 2, "user:shared": 3, "app:more": True, "temp:t": 1}
    results = []
    for service in services:
        of_ada = {"app_name": "app", "user_id": "ada@example.com"}
        one = await service.create_session(**of_ada, session_id="one", state=state)
        two = await service.create_session(**of_ada, session_id="two")
        other = await service.create_session(app_name="app", user_id="bob", session_id="one")
        with pytest.raises(AlreadyExistsError):
            await service.create_session(**of_ada, session_id="one")
        for number in range(4):
            delta = change if number == 2 else {}
            event = Event(
                id=f"event {number}", author="user", timestamp=1000.0 + number,
                actions=EventActions(state_delta=dict(delta)),
            )  # fmt: skip
            again = event.model_copy(deep=True)
            await service.append_event(one, event)
            # In memory one that had temporary state does not count as the same.
            if number != 2:
                await service.append_event(one, again)
        assert len(one.events) == 4 and one.state["new"] == 2
        gets = [
            await service.get_session(**of_ada, session_id="one", config=config)
            for config in [
                None,
                GetSessionConfig(num_recent_events=2),
                GetSessionConfig(num_recent_events=0),
                GetSessionConfig(after_timestamp=1002.0),
            ]
        ]
        assert await service.get_session(**of_ada, session_id="none") is None
        listed = await service.list_sessions(app_name="app")
        own = await service.list_sessions(**of_ada)
        await service.delete_session(**of_ada, session_id="one")
        await service.delete_session(**of_ada, session_id="none")
        left = await service.list_sessions(app_name="app")
        with pytest.raises(SessionNotFoundError):
            await service.append_event(one, Event(author="user"))
        again = await service.create_session(**of_ada, session_id="one")
        results.append(
            [
                [seen(session) for session in [two, other, *gets, again]],
                [sorted(map(seen, page.sessions)) for page in [listed, own, left]],
                await service.get_user_state(**of_ada),
            ]
        )
    assert results[0] == results[1]


SAID = {
    "one": ["Ada likes rye bread", "She was born in London"],
    "two": ["London has a river", "我想去北京旅行"],
}


async def test_adks_memory_is_that_of_its_service_in_memory(url):
    with AgentkitStore.from_conn_string(url, index={"search": "text"}) as store:
        of_ada = {"app_name": "an.app", "user_id": "ada@example.com"}
        results = []
        for memory in [AgentkitMemoryService(store), InMemoryMemoryService()]:
            sessions = AgentkitSessionService(store)
            for name, texts in SAID.items():
                id = f"{name} {type(memory).__name__}"
                session = await sessions.create_session(**of_ada, session_id=id)
                for place, text in enumerate(texts):
                    content = Content(role="user", parts=[Part(text=text)])
                    event = Event(
                        id=f"{name} {place}", author="ada", timestamp=1000.0 + place, content=content
                    )
                    await sessions.append_event(session, event)
                await sessions.append_event(session, Event(author="ada"))
                await memory.add_session_to_memory(session)
                await memory.add_session_to_memory(session)
            later = Content(role="model", parts=[Part(text="The bread is eaten")])
            delta = [Event(id="later", author="cook", timestamp=2000.0, content=later)]
            await memory.add_events_to_memory(**of_ada, events=delta)
            asked = ["bread", "who likes LONDON", "rye river", "nothing of it", "", "  "]
            found = [await memory.search_memory(**of_ada, query=query) for query in asked]
            of_other = {"app_name": "an.app", "user_id": "bob"}
            found.append(await memory.search_memory(**of_other, query="bread"))
            await memory.delete_memory(**of_ada, memory_id="one 0")
            await memory.delete_memory(**of_ada, memory_id="none")
            await memory.add_session_to_memory(session)
            one = Content(role="user", parts=[Part(text=SAID["one"][0])])
            again = [Event(id="one 0", author="ada", timestamp=1000.0, content=one)]
            await memory.add_events_to_memory(**of_ada, events=again)
            found.append(await memory.search_memory(**of_ada, query="bread"))
            results.append([sorted(entry.model_dump_json() for entry in page.memories) for page in found])
        assert results[0] == results[1]
        assert [len(page) for page in results[0]] == [2, 3, 2, 0, 0, 0, 0, 1]


async def test_adks_memory_has_what_is_said_to_be_one(url):
    with AgentkitStore.from_conn_string(url, index={"search": "text"}) as store:
        memory = AgentkitMemoryService(store)
        of_ada = {"app_name": "app", "user_id": "ada"}
        content = Content(parts=[Part(text="rye")])
        entries = [
            MemoryEntry(content=content, id="a", author="x", custom_metadata={"own": 1}),
            MemoryEntry(content=content),
        ]
        await memory.add_memory(**of_ada, memories=entries, custom_metadata={"all": [2], "own": 3})
        found = (await memory.search_memory(**of_ada, query="rye")).memories
        by_id = {entry.id: entry for entry in found}
        assert len(by_id) == 2 and by_id["a"].author == "x"
        assert by_id["a"].custom_metadata == {"all": [2], "own": 1}
    with AgentkitStore.from_conn_string(url) as store:
        with pytest.raises(ValueError, match="index"):
            AgentkitMemoryService(store)
