"""Message histories of Pydantic AI (`pip install pydantic-ai-slim`)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from yai_agentkit._store import AgentkitStore
from yai_agentkit.adapters._log import Log


class AgentkitHistory:
    """The messages of one chat, in a store.

    ```python
    history = AgentkitHistory("user 7", store)
    result = await agent.run("Hello", message_history=await history.messages())
    await history.add(result.new_messages())
    ```

    What is added at once is stored all or not at all.
    """

    def __init__(self, chat_id: str, store: AgentkitStore) -> None:
        """The history of this id, new or not."""
        self._log = Log(store, "pydantic ai", chat_id)

    async def messages(self, limit: int | None = None) -> list[ModelMessage]:
        """The last messages, the oldest of them first; without a limit, all."""
        return ModelMessagesTypeAdapter.validate_python(await self._log.last(limit))

    async def add(self, messages: Sequence[ModelMessage]) -> None:
        """Add messages, all or none."""
        await self._log.append(ModelMessagesTypeAdapter.dump_python(list(messages), mode="json"))

    async def clear(self) -> None:
        """Delete all messages."""
        await self._log.clear()
