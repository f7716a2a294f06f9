from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from yai_agentkit._native import Call

_T = TypeVar("_T")


def wait(call: Call[_T]) -> _T:
    """What comes of `call`. Where the thread runs gevent's greenlets, the others run meanwhile."""
    gevent = sys.modules.get("gevent._hub_local")
    hub = gevent.get_hub_if_exists() if gevent else None
    if hub is None or hub is sys.modules["greenlet"].getcurrent():
        return call.wait()
    done: _T = hub.threadpool.apply(call.wait)
    return done
