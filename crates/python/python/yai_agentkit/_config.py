"""Where a config points to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


def configurable(config: RunnableConfig) -> Mapping[str, Any]:
    configurable = config.get("configurable")
    if configurable is None:
        raise ValueError("config: needs a 'configurable', as {'configurable': {'thread_id': '1'}}")
    return configurable


def selector(config: RunnableConfig) -> tuple[str, str | None, str | None]:
    """The thread, the namespace and the checkpoint that `config` names."""
    given = configurable(config)
    thread_id = given.get("thread_id")
    if thread_id is None:
        raise ValueError("config: needs configurable.thread_id")
    return (
        str(thread_id),
        given.get("checkpoint_ns"),
        given.get("checkpoint_id") or None,
    )


def config_of(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }
