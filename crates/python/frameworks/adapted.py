"""Every adapter as a history of texts; as a program, one that adds to it until it is killed."""

import asyncio
import sys

from google.adk.events.event import Event
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part
from pydantic_ai.messages import ModelRequest, UserPromptPart
from yai_agentkit import AgentkitStore
from yai_agentkit.adapters.google_adk import AgentkitSessionService
from yai_agentkit.adapters.openai_agents import AgentkitSession
from yai_agentkit.adapters.pydantic_ai import AgentkitHistory


class OfOpenAI:
    at_once = 3

    def __init__(self, store, id):
        self.session = AgentkitSession(id, store)

    @classmethod
    async def begin(cls, store, id):
        return cls(store, id)

    async def add(self, texts):
        await self.session.add_items([{"role": "user", "content": text} for text in texts])

    async def texts(self, limit=None):
        return [item["content"] for item in await self.session.get_items(limit)]

    async def clear(self):
        await self.session.clear_session()


class OfPydantic:
    at_once = 3

    def __init__(self, store, id):
        self.history = AgentkitHistory(id, store)

    @classmethod
    async def begin(cls, store, id):
        return cls(store, id)

    async def add(self, texts):
        await self.history.add([ModelRequest(parts=[UserPromptPart(text)]) for text in texts])

    async def texts(self, limit=None):
        return [message.parts[0].content for message in await self.history.messages(limit)]

    async def clear(self):
        await self.history.clear()


class OfGoogle:
    """It adds one event at a time."""

    at_once = 1

    def __init__(self, store, id):
        self.service = AgentkitSessionService(store)
        self.names = {"app_name": "an.app", "user_id": "ada@example.com", "session_id": id}

    @classmethod
    async def begin(cls, store, id):
        history = cls(store, id)
        history.session = await history.service.create_session(**history.names)
        return history

    async def add(self, texts):
        for text in texts:
            content = Content(role="user", parts=[Part(text=text)])
            await self.service.append_event(self.session, Event(author="user", content=content))

    async def texts(self, limit=None):
        config = limit and GetSessionConfig(num_recent_events=limit)
        session = await self.service.get_session(**self.names, config=config)
        return [event.content.parts[0].text for event in session.events]

    async def clear(self):
        await self.service.delete_session(**self.names)


ADAPTED = {"openai": OfOpenAI, "google": OfGoogle, "pydantic": OfPydantic}


async def main(url, name):
    async with AgentkitStore.from_conn_string(url) as store:
        history = await ADAPTED[name].begin(store, "chat")
        for number in range(100_000):
            await history.add([f"{number} {place}" for place in range(history.at_once)])
            print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
