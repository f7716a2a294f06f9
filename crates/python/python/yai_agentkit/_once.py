from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from langchain_core.runnables.config import var_child_runnable_config

from yai_agentkit._turns import Turn, current_turn
from yai_agentkit._wait import wait

if TYPE_CHECKING:
    from yai_agentkit._native import Call

_F = TypeVar("_F", bound=Callable[..., Any])

_PAUSE = 0.01
"""How often one looks whether an equal call in this process has come to its end."""

_GIVEN = ("config", "runtime", "run_manager", "callbacks", "store", "writer")
"""What LangGraph gives to a function beside its arguments."""


class EffectUnknown(RuntimeError):
    """An effect began and left no result, and there is no graph that could ask a person."""


@overload
def once(function: _F) -> _F: ...
@overload
def once(*, name: str | None = None, repeatable: bool = False) -> Callable[[_F], _F]: ...
def once(function: Any = None, *, name: str | None = None, repeatable: bool = False) -> Any:
    """Make a function run once in its turn, whatever becomes of the process.

    ```python
    @tool
    @once
    def charge(customer: str, cents: int) -> str:
        return payments.charge(customer, cents)
    ```

    That it begins is recorded before, and its result after: a turn that is cut short and goes on
    uses the result and does not run it again. One that has begun and left no result may have taken
    effect or not: then a person is asked, by LangGraph's `interrupt`, and answers
    `Command(resume={"run": True})`, or `{"result": …}` with what it has come to.

    In a graph a call is known by its task, the function and its arguments: the same call within one
    task happens once. Outside of a graph by the turn in place of the task. An exception counts as
    no result.

    Args:
        function: The function or coroutine function: a tool's, a node's, or any other.
        name: By which it is known; by default its own.
        repeatable: It may be run again where its result is not known: nobody is asked.
    """
    if function is None:
        return functools.partial(once, name=name, repeatable=repeatable)
    known_as = name or f"{function.__module__}.{function.__qualname__}"

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            turn = current_turn()
            effect = Effect(turn, _called(turn, known_as, args, kwargs), known_as, repeatable)
            return await effect.aperform(lambda: function(*args, **kwargs))

        return asynchronous

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        turn = current_turn()
        effect = Effect(turn, _called(turn, known_as, args, kwargs), known_as, repeatable)
        return effect.perform(lambda: function(*args, **kwargs))

    return synchronous


def once_tool_call(request: Any, execute: Callable[[Any], Any]) -> Any:
    """Make every call of a `ToolNode`'s tools happen once, as `once` does for one function.

    ```python
    ToolNode(tools, wrap_tool_call=once_tool_call, awrap_tool_call=aonce_tool_call)
    ```

    A call is known by its id. Tools whose metadata say `{"repeatable": True}` are run again.
    """
    return _tool_effect(request).perform(lambda: execute(request))


async def aonce_tool_call(request: Any, execute: Callable[[Any], Awaitable[Any]]) -> Any:
    """Make every call of a `ToolNode`'s tools happen once. See `once_tool_call`."""
    return await _tool_effect(request).aperform(lambda: execute(request))


class Effect:
    """Something that happens once in a turn: recorded before and after."""

    def __init__(self, turn: Turn, key: str, name: str, repeatable: bool) -> None:
        self._turn = turn
        self._key = key
        self._name = name
        self._repeatable = repeatable

    def perform(self, function: Callable[[], Any]) -> Any:
        """Run `function`, or return what it has come to."""
        while self._key in self._turn._performing:
            time.sleep(_PAUSE)
        steps = self._steps()
        try:
            step = next(steps)
            while True:
                step = steps.send(function() if step is None else wait(step))
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def aperform(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run `function`, or return what it has come to."""
        while self._key in self._turn._performing:
            await asyncio.sleep(_PAUSE)
        steps = self._steps()
        try:
            step = next(steps)
            while True:
                step = steps.send(await function() if step is None else await step)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _steps(self) -> Generator[Call[Any] | None, Any, Any]:
        """The calls to make, with the outcome of each sent back; `None` is the function itself."""
        serde = self._turn._saver.serde
        performing = self._turn._performing
        performing.add(self._key)
        try:
            was_begun, stored = yield self._turn._record(self._key, None)
            if stored is not None:
                return serde.loads_typed(stored)
            answer = self._ask() if was_begun and not self._repeatable else {"run": True}
            result = answer["result"] if "result" in answer else (yield None)
            yield self._turn._record(self._key, serde.dumps_typed(result))
            return result
        finally:
            performing.discard(self._key)

    def _ask(self) -> dict[str, Any]:
        question = (
            f"{self._name} began and left no result: it may have taken effect or not. "
            'Answer {"run": true} to run it again, or {"result": …} with what it has come to.'
        )
        if _task_id() is None:
            raise EffectUnknown(question)
        from langgraph.types import interrupt

        answer = interrupt({"effect": self._name, "question": question})
        if not isinstance(answer, dict) or not ("result" in answer or answer.get("run") is True):
            raise ValueError(f"{answer!r} is no answer. {question}")
        return answer


def _tool_effect(request: Any) -> Effect:
    turn, call = current_turn(), request.tool_call
    metadata = getattr(request.tool, "metadata", None) or {}
    key = f"{_scope(turn)}/{call['id']}"
    return Effect(turn, key, call["name"], bool(metadata.get("repeatable")))


def _called(turn: Turn, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The key of a call."""
    digest = hashlib.sha256()
    given = {key: value for key, value in sorted(kwargs.items()) if key not in _GIVEN}
    for key, value in [*enumerate(args), *given.items()]:
        try:
            type_tag, data = turn._saver.serde.dumps_typed(value)
        except TypeError:
            continue  # What can't be stored is no argument that tells calls apart.
        digest.update(f"{key}/{type_tag}/{len(data)}/".encode() + data)
    return effect_key(turn, f"{name}/{digest.hexdigest()}")


def effect_key(turn: Turn, name: str) -> str:
    """The key of what is called `name`."""
    if len(name) > 300:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"{_scope(turn)}/{name}"


def _scope(turn: Turn) -> str:
    """The task under way, which has the same id when it is run again; or the turn."""
    return _task_id() or turn.id


def _task_id() -> str | None:
    config = var_child_runnable_config.get() or {}
    task_id: str | None = (config.get("configurable") or {}).get("__pregel_task_id")
    return task_id
