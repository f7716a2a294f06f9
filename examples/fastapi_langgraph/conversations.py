"""Conversations are threads: what was said and what the agent was doing are one state."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel
from yai_agentkit import AgentkitSaver, Thread, Turn

from agent import State


class Conversation(BaseModel):
    id: str
    title: str | None


class Page(BaseModel):
    items: list[Conversation]
    next_cursor: str | None


class ToolCall(BaseModel):
    name: str
    args: dict[str, Any]


class Message(BaseModel):
    id: str
    role: str
    content: str
    tool_calls: list[ToolCall] = []


class Event(BaseModel):
    """What happens in a turn: a `token` of the answer, the result of a `tool`, the `answer`."""

    kind: str
    message: Message


class NotFound(Exception):
    """There is no such conversation."""


class Conversations:
    def __init__(self, graph: CompiledStateGraph[State], checkpointer: AgentkitSaver) -> None:
        self._graph = graph
        self._checkpointer = checkpointer

    async def create(self, title: str | None) -> Conversation:
        id = str(uuid.uuid4())
        return await self._write_title(id, title)

    async def get(self, id: str) -> Conversation:
        return Conversation(id=id, title=(await self._state(id)).get("title"))

    async def page(self, limit: int, cursor: str | None) -> Page:
        """Those last written to first."""
        after = None if cursor is None else thread_at(cursor)
        threads = await self._checkpointer.athreads(limit=limit, after=after)
        found = await asyncio.gather(
            *(self.get(thread.id) for thread in threads), return_exceptions=True
        )
        items = []
        for conversation in found:
            if isinstance(conversation, Conversation):
                items.append(conversation)
            elif not isinstance(conversation, NotFound):  # deleted since it was listed
                raise conversation
        full = len(threads) == limit
        return Page(items=items, next_cursor=_cursor(threads[-1]) if full else None)

    async def rename(self, id: str, title: str | None) -> Conversation:
        await self.get(id)
        return await self._write_title(id, title)

    async def delete(self, id: str) -> None:
        await self.get(id)
        await self._checkpointer.conversations.adelete(id)

    async def messages(self, id: str) -> list[Message]:
        return [_message(message) for message in (await self._state(id)).get("messages", [])]

    async def state_messages(self, id: str) -> list[AnyMessage]:
        """The messages of the graph."""
        found = await self._checkpointer.aget_tuple(_config(id))
        return [] if found is None else found.checkpoint["channel_values"].get("messages", [])

    async def turn(self, id: str, content: str, key: str | None) -> Turn:
        """To be entered: then no other process works on the conversation, which must exist.

        The same key is the same turn, and has the first one's answer.
        """
        await self.get(id)
        return self.turn_of_anybody(id, HumanMessage(content), key)

    def turn_of_anybody(self, id: str, message: HumanMessage, key: str | None) -> Turn:
        """The same, for a conversation that begins with it where there is none."""
        input = {"messages": [message]}
        return self._checkpointer.turn(id, input=input, key=key, message=message.text)

    async def answer(self, turn: Turn) -> AsyncIterator[Event]:
        """What happens until the answer is there.

        Each step is durable before the next one begins. A turn that was cut short, by a crash or
        by a client that went away, goes on from its last step, here or in a worker.
        """
        async for message, is_whole in self.run(turn):
            if isinstance(message, ToolMessage):
                yield Event(kind="tool", message=_message(message))
            elif not is_whole and message.content:
                yield Event(kind="token", message=_message(message))
        yield Event(kind="answer", message=_message(turn.result["messages"][-1]))

    async def run(self, turn: Turn) -> AsyncIterator[tuple[AnyMessage, bool]]:
        """The messages of a turn that has not ended, each with whether it is whole or a piece."""
        if turn.done:
            return
        modes = ["messages", "updates"]
        async for mode, part in self._graph.astream(
            turn.input, turn.config, stream_mode=modes, durability="sync"
        ):
            if mode == "messages":
                message, metadata = part
                if metadata["langgraph_node"] == "agent":
                    yield message, False
                continue
            for updates in part.values():
                for update in updates if isinstance(updates, list) else [updates or {}]:
                    for message in update.get("messages", []):
                        yield message, True
        state = await self._state(turn.thread_id)
        turn.result = {"messages": state["messages"][-1:]}

    async def _write_title(self, id: str, title: str | None) -> Conversation:
        async with self._checkpointer.turn(id) as turn:
            await self._graph.ainvoke({"title": title}, turn.config, durability="sync")
        return Conversation(id=id, title=title)

    async def _state(self, id: str) -> dict[str, Any]:
        found = await self._checkpointer.aget_tuple(_config(id))
        if found is None:
            raise NotFound
        return found.checkpoint["channel_values"]


def _config(id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": id}}


ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}


def _message(message: AnyMessage) -> Message:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return Message(
        id=message.id or "",
        role=ROLES.get(message.type, message.type),
        content=message.text,
        tool_calls=[ToolCall(name=call["name"], args=call["args"]) for call in calls],
    )


def _cursor(thread: Thread) -> str:
    return f"{thread.updated_at.isoformat()}/{thread.id}"


def thread_at(cursor: str) -> Thread:
    """The last thread of the page before; raises `ValueError` for what is no cursor."""
    updated_at, _, id = cursor.partition("/")
    return Thread(id, None, datetime.fromisoformat(updated_at))
