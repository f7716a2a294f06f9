"""Sessions of the OpenAI Agents SDK (`pip install openai-agents`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from agents.memory.session import SessionABC
from agents.memory.session_settings import (
    SessionSettings,
    coerce_session_settings,
    resolve_session_limit,
)

from yai_agentkit._store import AgentkitStore
from yai_agentkit.adapters._log import Log

if TYPE_CHECKING:
    from agents.items import TResponseInputItem


class AgentkitSession(SessionABC):
    """The history of one session, in a store.

    ```python
    session = AgentkitSession("user 7", store)
    await Runner.run(agent, "Hello", session=session)
    ```

    What a run adds is stored all or not at all. Several workers may add to a session at once; of two
    that pop at once both may get the same item.
    """

    def __init__(
        self,
        session_id: str,
        store: AgentkitStore,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        """The session of this id, new or not."""
        self.session_id = session_id
        self.session_settings = coerce_session_settings(session_settings or SessionSettings())
        self._log = Log(store, "openai agents", session_id)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The last items, the oldest of them first; without a limit, all."""
        limit = resolve_session_limit(limit, self.session_settings)
        return cast("list[TResponseInputItem]", await self._log.last(limit))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items, all or none."""
        await self._log.append(cast("list[Any]", items))

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item away; `None` where there is none."""
        return cast("TResponseInputItem | None", await self._log.pop())

    async def clear_session(self) -> None:
        """Delete all items."""
        await self._log.clear()
