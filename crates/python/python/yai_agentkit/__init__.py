"""AgentKit: durable memory for stateful AI agents, as a LangGraph checkpoint saver."""

from yai_agentkit._native import ConflictError, NotFoundError, StorageError
from yai_agentkit._javascript import JavaScriptSaver
from yai_agentkit._saver import AgentkitSaver, Thread
from yai_agentkit._serializer import DataSerializer

__all__ = [
    "AgentkitSaver",
    "ConflictError",
    "DataSerializer",
    "JavaScriptSaver",
    "NotFoundError",
    "StorageError",
    "Thread",
]
