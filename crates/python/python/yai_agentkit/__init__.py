"""AgentKit: durable memory for stateful AI agents, as a LangGraph checkpoint saver."""

from yai_agentkit._native import ConflictError, Fenced, NotFoundError, StorageError
from yai_agentkit._conversations import Conversation, Conversations, Message
from yai_agentkit._index import AgentkitIndexConfig
from yai_agentkit._javascript import JavaScriptSaver
from yai_agentkit._once import EffectUnknown, aonce_tool_call, once, once_tool_call
from yai_agentkit._saver import AgentkitSaver, Thread
from yai_agentkit._serializer import DataSerializer
from yai_agentkit._store import AgentkitStore
from yai_agentkit._turns import Busy, Turn, TurnCancelled, TurnFailed, current_turn
from yai_agentkit._worker import run_worker

__all__ = [
    "AgentkitIndexConfig",
    "AgentkitSaver",
    "AgentkitStore",
    "Busy",
    "ConflictError",
    "Conversation",
    "Conversations",
    "DataSerializer",
    "EffectUnknown",
    "Fenced",
    "JavaScriptSaver",
    "Message",
    "NotFoundError",
    "StorageError",
    "Thread",
    "Turn",
    "TurnCancelled",
    "TurnFailed",
    "aonce_tool_call",
    "current_turn",
    "once",
    "once_tool_call",
    "run_worker",
]
