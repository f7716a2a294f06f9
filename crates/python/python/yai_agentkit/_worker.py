from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from yai_agentkit._native import Fenced
from yai_agentkit._turns import Busy, Turn

if TYPE_CHECKING:
    from yai_agentkit._saver import AgentkitSaver

_LOG = logging.getLogger("yai_agentkit")


async def run_worker(
    graph: Any,
    saver: AgentkitSaver | None = None,
    *,
    concurrency: int = 8,
    poll: float = 0.5,
    lease: float = 30.0,
    max_attempts: int = 5,
    stop: asyncio.Event | None = None,
) -> None:
    """Run turns that wait for somebody, until `stop` is set: those whose worker has died, and those
    that were enqueued. Any number of processes may do so on one database.

    ```python
    async with AgentkitSaver.from_config() as saver:
        await run_worker(builder.compile(checkpointer=saver))
    ```

    Args:
        graph: What runs them: called with each turn's input, or `None` to go on where it was cut
            short. What it returns is the turn's result.
        saver: Where they are stored; by default the graph's checkpointer.
        concurrency: How many run at once.
        poll: After how many seconds it looks again.
        lease: See `AgentkitSaver.turn`.
        max_attempts: A turn fails that was begun more often: what kills its worker shall not kill
            all of them.
        stop: Set, it lets what is under way end, and returns. Cancelled, what is under way stays
            open, and another worker goes on with it.
    """
    saver = saver or graph.checkpointer
    under_way: dict[str, asyncio.Task[None]] = {}
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        while not stopping.done():
            free = concurrency - len(under_way)
            try:
                # Those under way are not due, unless this process was held up.
                due = await saver.adue(limit=concurrency, lease=lease) if free else []
            except ConnectionError as error:
                _LOG.warning("turns that wait not read: %s", error)
                due = []
            new = [turn for turn in due if turn.id not in under_way][:free]
            for turn in new:
                work = _work(graph, turn, max_attempts)
                under_way[turn.id] = asyncio.create_task(work)
            pause = 0 if new and len(due) == concurrency else poll
            await asyncio.wait(
                [stopping, *under_way.values()],
                timeout=None if len(under_way) == concurrency else pause,
                return_when=asyncio.FIRST_COMPLETED,
            )
            under_way = {id: task for id, task in under_way.items() if not task.done()}
        await asyncio.gather(*under_way.values())
    finally:
        left = [stopping, *under_way.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _work(graph: Any, turn: Turn, max_attempts: int) -> None:
    try:
        async with turn:
            if turn.done:
                return
            if turn.attempt > max_attempts:
                raise RuntimeError(f"given up after {max_attempts} attempts")
            turn.result = await graph.ainvoke(turn.input, turn.config)
    except (Busy, Fenced):
        _LOG.info("turn %s has passed to another worker", turn.id)
    except Exception:
        _LOG.exception("turn %s of thread %s not finished", turn.id, turn.thread_id)
