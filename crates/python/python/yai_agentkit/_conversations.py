from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from yai_agentkit._wait import wait

if TYPE_CHECKING:
    from yai_agentkit import _native


class Conversation(NamedTuple):
    """What a person sees of a thread."""

    id: str
    """Its id."""
    thread_id: str
    """The thread of its graph: of the same id, unless it adopts another."""
    title: str | None
    """Its title."""
    metadata: Any
    """Any JSON."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it was last changed."""


class Message(NamedTuple):
    """One message of a conversation."""

    id: str
    """Its id."""
    role: str
    """Who speaks: `"user"`, `"assistant"`, …"""
    content: str
    """What is said."""
    metadata: Any
    """Any JSON."""
    created_at: datetime
    """When it was made."""


class Conversations:
    """The conversations of a database, which AgentKit's server has too.

    ```python
    conversation = saver.conversations.create("A trip")
    with saver.turn(conversation.thread_id, message="Hello", input=…) as turn:
        turn.result = graph.invoke(turn.input, turn.config)
        turn.add_message("assistant", turn.result["messages"][-1].content)
    saver.conversations.messages(conversation.id)
    ```

    Each method has an async twin, with an `a` before its name.
    """

    def __init__(self, native: _native.Conversations) -> None:
        """For `AgentkitSaver.conversations`."""
        self._native = native

    def create(
        self,
        title: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
    ) -> Conversation:
        """Make a conversation, of a thread that is there already where `thread_id` names one."""
        return _conversation(wait(self._native.create(title, _dumped(metadata), thread_id)))

    async def acreate(
        self,
        title: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
    ) -> Conversation:
        """Make a conversation. See `create`."""
        return _conversation(await self._native.create(title, _dumped(metadata), thread_id))

    def get(self, conversation_id: str) -> Conversation | None:
        """A conversation; `None` where there is none."""
        found = wait(self._native.get(conversation_id))
        return None if found is None else _conversation(found)

    async def aget(self, conversation_id: str) -> Conversation | None:
        """A conversation; `None` where there is none."""
        found = await self._native.get(conversation_id)
        return None if found is None else _conversation(found)

    def list(
        self, *, limit: int = 100, after: Conversation | None = None
    ) -> builtins.list[Conversation]:
        """The newest conversations.

        Args:
            limit: So many at most.
            after: The last one of the page before.
        """
        found = wait(self._native.list(limit, after.id if after else None))
        return [_conversation(row) for row in found]

    async def alist(
        self, *, limit: int = 100, after: Conversation | None = None
    ) -> builtins.list[Conversation]:
        """The newest conversations. See `list`."""
        found = await self._native.list(limit, after.id if after else None)
        return [_conversation(row) for row in found]

    def messages(
        self, conversation_id: str, *, limit: int = 100, after: Message | None = None
    ) -> builtins.list[Message]:
        """The messages of a conversation, oldest first.

        Args:
            conversation_id: The conversation.
            limit: So many at most.
            after: The last one of the page before.
        """
        found = wait(self._native.messages(conversation_id, limit, after.id if after else None))
        return [_message(row) for row in found]

    async def amessages(
        self, conversation_id: str, *, limit: int = 100, after: Message | None = None
    ) -> builtins.list[Message]:
        """The messages of a conversation, oldest first. See `messages`."""
        found = await self._native.messages(conversation_id, limit, after.id if after else None)
        return [_message(row) for row in found]

    def fork(self, conversation_id: str) -> Conversation:
        """Make a new conversation with copies of the messages and of the thread's checkpoints."""
        return _conversation(wait(self._native.fork(conversation_id)))

    async def afork(self, conversation_id: str) -> Conversation:
        """Make a new conversation with copies of all of another. See `fork`."""
        return _conversation(await self._native.fork(conversation_id))

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation with its messages, turns and thread.

        Raises:
            NotFoundError: If there is none.
            ConflictError: If a turn runs in it.
        """
        wait(self._native.delete(conversation_id))

    async def adelete(self, conversation_id: str) -> None:
        """Delete a conversation with all that belongs to it. See `delete`."""
        await self._native.delete(conversation_id)


def _dumped(metadata: Mapping[str, Any] | None) -> str | None:
    return None if metadata is None else json.dumps(metadata)


def _loaded(metadata: str | None) -> Any:
    return None if metadata is None else json.loads(metadata)


def _conversation(row: _native._Conversation) -> Conversation:
    id, thread_id, title, metadata, *times = row
    return Conversation(id, thread_id, title, _loaded(metadata), *map(_time, times))


def _message(row: _native._Message) -> Message:
    id, role, content, metadata, created_at = row
    return Message(id, role, content, _loaded(metadata), _time(created_at))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
