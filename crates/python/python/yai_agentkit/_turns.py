from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeVar, cast

from yai_agentkit._native import ConflictError, Fenced
from yai_agentkit._wait import wait

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from typing_extensions import Self

    from yai_agentkit._native import Call, OwnedTurn, _Found, _Request
    from yai_agentkit._saver import AgentkitSaver

_T = TypeVar("_T")

TURN = "__agentkit_turn"
"""Where a config holds the turn that writes: LangGraph hands such a key on and stores it nowhere."""

# Weakly: a turn that is dropped without an end is given back.
_CURRENT: ContextVar[weakref.ref[Turn]] = ContextVar("agentkit_turn")


class Busy(ConflictError):
    """Another turn of the thread has not ended."""


class TurnFailed(RuntimeError):
    """The turn that this key has led to has failed; the text says why."""


class TurnCancelled(TurnFailed):
    """The turn that this key has led to was cancelled, by one that interrupted it."""


class Turn:
    """One turn of a thread: from an input to its result, run by one owner at a time.

    ```python
    with saver.turn(thread_id, input={"messages": ["hi"]}, key=request_id) as turn:
        if not turn.done:
            turn.result = graph.invoke(turn.input, turn.config)
    return turn.result
    ```

    Entering takes the thread's lease and raises its epoch; what is written with `config` asks that
    epoch in the statement that writes. A worker that slept past its lease, and whose turn somebody
    else has taken, gets `Fenced`, and nothing that it writes is stored.

    Leaving ends the turn, and stores its result with what was added by `add_message`. Where an
    exception leaves the block, the turn has failed; where the block is cancelled, or the database
    is out of reach, the turn stays open and anybody may go on with it: the same key, or
    `AgentkitSaver.due`.
    """

    def __init__(
        self, saver: AgentkitSaver, thread_id: str, lease: float, timeout: float | None
    ) -> None:
        """For `AgentkitSaver.turn` and `AgentkitSaver.due`."""
        self._saver = saver
        self._lease = lease
        self._timeout = timeout
        self._owned: OwnedTurn | None = None
        self._epoch: int | None = None
        self._request: _Request | None = None
        self._place: tuple[str, str] | None = None
        self._messages: list[tuple[str, str, str | None]] = []
        self._performing: set[str] = set()
        self._token: Token[weakref.ref[Turn]] | None = None
        self.thread_id = thread_id
        """The thread."""
        self.done = False
        """Whether it had ended before: its result is that of the first time."""
        self.result: Any = None
        """What it has come to: to be set before the block ends, and there when `done`."""

    @property
    def id(self) -> str:
        """Its id, which the metadata of its checkpoints have as `run_id`."""
        if self._place is None:
            raise RuntimeError("the turn has no id before it is entered")
        return self._place[1]

    @property
    def attempt(self) -> int:
        """How often somebody has begun to work on it."""
        return self._mine().attempt

    @property
    def epoch(self) -> int:
        """With what its writes are fenced."""
        if self._epoch is None:
            self._mine()
        return self._epoch or 0

    @property
    def is_lost(self) -> bool:
        """Whether it was seen to have passed to somebody else, or to be cancelled."""
        return self._mine().is_lost

    @property
    def input(self) -> Any:
        """What the graph is to be called with: `None` once a checkpoint knows the turn's input."""
        owned = self._mine()
        stored = owned.input
        if stored is None or owned.is_taken_in:
            return None
        return self._saver.serde.loads_typed(stored)

    @property
    def config(self) -> RunnableConfig:
        """What the graph is to be called with, so that all it writes is fenced."""
        self._mine()
        return {"configurable": {"thread_id": self.thread_id, TURN: self}}

    def add_message(
        self, role: str, content: str, *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Add a message to the conversation of the thread, when the turn ends.

        Args:
            role: `"user"`, `"assistant"`, `"system"`, `"tool"`, or any other.
            content: What is said.
            metadata: Any JSON.
        """
        self._mine()
        self._messages.append((role, content, self._saver._metadata(metadata)))

    def once(
        self,
        name: str,
        function: Callable[..., _T],
        /,
        *args: Any,
        repeatable: bool = False,
        **kwargs: Any,
    ) -> _T:
        """Run a function once in this turn, under a name of its own; see `once`.

        ```python
        receipt = turn.once("charge", charge, customer, cents)
        receipt = await turn.once("charge", charge_async, customer, cents)
        ```

        Args:
            name: By which it is known in the turn, and within a graph in the task under way.
            function: The function, or coroutine function, whose result is to be awaited then.
            repeatable: See `once`.
        """
        from yai_agentkit._once import Effect, effect_key

        effect = Effect(self, effect_key(self, name), name, repeatable)
        if inspect.iscoroutinefunction(function):
            return cast("_T", effect.aperform(lambda: function(*args, **kwargs)))
        return cast("_T", effect.perform(lambda: function(*args, **kwargs)))

    def __enter__(self) -> Self:
        found = wait(self._begin())
        for pause in self._pauses():
            if self._arrived(found):
                break
            time.sleep(pause)
            found = wait(self._look())
        return self

    async def __aenter__(self) -> Self:
        found = await self._begin()
        for pause in self._pauses():
            if self._arrived(found):
                break
            await asyncio.sleep(pause)
            found = await self._look()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        end = self._end(error)
        if end is not None:
            with _fenced():
                wait(end)

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        end = self._end(error)
        if end is not None:
            with _fenced():
                await end

    def _record(
        self, key: str, value: tuple[str, bytes] | None
    ) -> Call[tuple[bool, tuple[str, bytes] | None]]:
        return self._mine().record(key, value)

    def _mine(self) -> OwnedTurn:
        if self._owned is None:
            reason = "it had ended before: see `done`" if self.done else "it is not entered"
            raise RuntimeError(f"the turn is not this process's to run: {reason}")
        return self._owned

    def _begin(self) -> Call[_Found]:
        if self._place is not None:
            return self._look()
        assert self._request is not None
        return self._saver._turns.open(self._request)

    def _look(self) -> Call[_Found]:
        assert self._place is not None
        return self._saver._turns.look(self.thread_id, *self._place, self._lease)

    def _pauses(self) -> Iterator[float]:
        """How long to wait for whoever has it."""
        ends = None if self._timeout is None else time.monotonic() + self._timeout
        pause = 0.02
        while True:
            yield pause
            if ends is not None and time.monotonic() >= ends:
                raise Busy(f"thread {self.thread_id} is busy for more than {self._timeout} s")
            pause = min(2 * pause, 0.5)

    def _arrived(self, found: _Found) -> bool:
        """Whether the turn is owned, or has ended."""
        match found:
            case ("owned", owned):
                self._owned, self._epoch = owned, owned.epoch
                self._place = (owned.conversation_id, owned.id)
                self._token = _CURRENT.set(weakref.ref(self))
            case ("waits", conversation_id, turn_id):
                self._place = (conversation_id, turn_id)
                return False
            case ("ended", conversation_id, turn_id, status, error, result):
                self._place = (conversation_id, turn_id)
                if status == "cancelled":
                    raise TurnCancelled(f"turn {turn_id} was cancelled")
                if status == "failed":
                    raise TurnFailed(error)
                self.done = True
                if result is not None:
                    self.result = self._saver.serde.loads_typed(result)
            case _:
                raise Busy(f"another turn of thread {self.thread_id} has not ended")
        return True

    def _end(self, error: BaseException | None) -> Call[None] | None:
        owned, self._owned = self._owned, None
        if self._token is not None:
            try:
                _CURRENT.reset(self._token)
            except ValueError:
                pass  # An async generator may end in another context.
            self._token = None
        if owned is None or isinstance(error, Fenced):
            return None
        if error is None:
            result = None if self.result is None else self._saver.serde.dumps_typed(self.result)
            return owned.close("completed", None, self._messages, result)
        if isinstance(error, ConnectionError) or not isinstance(error, Exception):
            return owned.give_back()
        return owned.close("failed", f"{type(error).__name__}: {error}", self._messages, None)


class _fenced:
    """A turn that is not as it was belongs to somebody else by now."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ConflictError) and not isinstance(error, Fenced):
            raise Fenced("the turn has passed to another owner, or was cancelled") from error


def turn_of(config: Mapping[str, Any] | None) -> Turn | None:
    """The turn that a config writes for, if it does."""
    turn = ((config or {}).get("configurable") or {}).get(TURN)
    return turn if isinstance(turn, Turn) else None


def current_turn() -> Turn:
    """The turn under way: that of LangGraph's config, or of the block.

    Raises:
        RuntimeError: If there is none.
    """
    from langchain_core.runnables.config import var_child_runnable_config

    found = _CURRENT.get(None)
    turn = turn_of(var_child_runnable_config.get()) or (found() if found else None)
    if turn is None:
        raise RuntimeError("no turn is under way: enter one by `with saver.turn(…)`")
    return turn
