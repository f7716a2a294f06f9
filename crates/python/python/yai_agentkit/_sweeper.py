from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG = logging.getLogger("yai_agentkit")


class Sweeper(Future[None]):
    """A thread that sweeps every so many seconds until it is stopped, or cancelled as a future.

    Code that is made for `AsyncPostgresStore` awaits what starts it, and gets it."""

    def __init__(self, sweep: Callable[[], int] | None, seconds: float) -> None:
        """One that has nothing to sweep is done."""
        super().__init__()
        self._is_stopping = threading.Event()
        self.add_done_callback(lambda _: self._is_stopping.set())
        if sweep is None:
            self.set_result(None)
            return
        self._thread = threading.Thread(
            target=self._run, args=(sweep, seconds), name="ttl-sweeper", daemon=True
        )
        self._thread.start()

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Whether it has stopped within so many seconds."""
        self._is_stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, sweep: Callable[[], int], seconds: float) -> None:
        while not self._is_stopping.wait(seconds):
            try:
                if swept := sweep():
                    _LOG.info("deleted %d items that have outlived their time", swept)
            except Exception:
                _LOG.exception("items that have outlived their time are not deleted, for now")
        with suppress(InvalidStateError):  # Cancelled.
            self.set_result(None)
