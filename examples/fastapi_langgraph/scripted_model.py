"""A chat model without a network: it follows three patterns, and says so for all else."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class ScriptedModel(BaseChatModel):
    delay: float = 0
    """Seconds that an answer takes, as with a real model."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> "ScriptedModel":
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(messages))])

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        await asyncio.sleep(self.delay)
        message = answer(messages)
        for word in re.findall(r"\S+\s*", str(message.content)):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        yield ChatGenerationChunk(message=AIMessageChunk("", tool_calls=message.tool_calls))


def answer(messages: list[BaseMessage]) -> AIMessage:
    known, last = str(messages[0].content), messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"Done: {last.content}")
    text = str(last.content)
    if found := re.search(r"(\d+) (?:\*|times) (\d+)", text):
        return call("multiply", a=int(found[1]), b=int(found[2]))
    if found := re.search(r"my (\w+) is (\w+)", text, re.IGNORECASE):
        return call("remember", name=found[1], value=found[2])
    if found := re.search(r"what is my (\w+)", text, re.IGNORECASE):
        fact = re.search(rf"^{found[1]}: (.+)", known, re.MULTILINE)
        return AIMessage(f"Your {found[1]} is {fact[1]}." if fact else "You have not told me.")
    return AIMessage("I follow a script: ask for 17 * 23, or tell me that your name is Ada.")


def call(tool: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": str(uuid.uuid4())}])
