"""AG-UI: a turn as the events that front ends of that protocol speak.

A run is a turn, whose key is the run's id. Sent again it goes on where it was cut short, or has the first
one's outcome: what is known by then comes at once, as a snapshot.
"""

import json
from collections.abc import AsyncIterator

from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    FunctionCall,
    Message,
    MessagesSnapshotEvent,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from ag_ui.encoder import EventEncoder
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.messages import ToolMessage as ToolResult
from yai_agentkit import Turn

from conversations import Conversations


async def stream(
    run: RunAgentInput, turn: Turn, conversations: Conversations
) -> AsyncIterator[str]:
    """The events of a run, as server-sent ones."""
    encode = EventEncoder().encode
    place = {"thread_id": run.thread_id, "run_id": run.run_id}
    yield encode(RunStartedEvent(**place))
    if turn.done or turn.input is None:
        known = await conversations.state_messages(turn.thread_id)
        yield encode(MessagesSnapshotEvent(messages=[_message(message) for message in known]))
    try:
        async for event in _events(turn, conversations):
            yield encode(event)
    except Exception:
        yield encode(RunErrorEvent(message="the agent has failed"))
        raise
    yield encode(RunFinishedEvent(**place))


async def _events(turn: Turn, conversations: Conversations) -> AsyncIterator[BaseEvent]:
    open_text: str | None = None
    async for message, is_whole in conversations.run(turn):
        if isinstance(message, ToolResult):
            id, call = _result_id(message), message.tool_call_id
            yield ToolCallResultEvent(message_id=id, tool_call_id=call, content=message.text)
        elif not is_whole and message.text:
            if open_text is None:
                open_text = message.id or ""
                yield TextMessageStartEvent(message_id=open_text, role="assistant")
            yield TextMessageContentEvent(message_id=open_text, delta=message.text)
        elif is_whole:
            if open_text is not None:
                yield TextMessageEndEvent(message_id=open_text)
                open_text = None
            for call in message.tool_calls if isinstance(message, AIMessage) else []:
                id, name = call["id"] or "", call["name"]
                yield ToolCallStartEvent(
                    tool_call_id=id, tool_call_name=name, parent_message_id=message.id
                )
                yield ToolCallArgsEvent(tool_call_id=id, delta=json.dumps(call["args"]))
                yield ToolCallEndEvent(tool_call_id=id)


def _message(message: AnyMessage) -> Message:
    id = message.id or ""
    if isinstance(message, ToolResult):
        call = message.tool_call_id
        return ToolMessage(id=_result_id(message), content=message.text, tool_call_id=call)
    if not isinstance(message, AIMessage):
        return UserMessage(id=id, content=message.text)
    calls = [
        ToolCall(
            id=call["id"] or "",
            function=FunctionCall(name=call["name"], arguments=json.dumps(call["args"])),
        )
        for call in message.tool_calls
    ]
    return AssistantMessage(id=id, content=message.text or None, tool_calls=calls or None)


def _result_id(message: ToolResult) -> str:
    """The same before the graph has given it one."""
    return f"result of {message.tool_call_id}"
