"""A graph of LangGraph behind AG-UI, by its own adapter: uvicorn agent:app."""

import operator
from typing import Annotated

from ag_ui_langgraph import LangGraphAgent, add_langgraph_fastapi_endpoint
from fastapi import FastAPI
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt


class Model(BaseChatModel):
    """Says what it was told, word by word; calls a tool where it is asked to."""

    _llm_type = "scripted"

    def _generate(self, messages, stop=None, run_manager=None, **_):
        chunks = [chunk.message for chunk in self._stream(messages, run_manager=run_manager)]
        message = AIMessage(content="".join(chunk.content for chunk in chunks), tool_calls=chunks[-1].tool_calls)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages, stop=None, run_manager=None, **_):
        last = messages[-1]
        if last.type == "human" and last.content == "look":
            call = {"name": "look", "args": "{}", "id": "call_look", "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))
            return
        told = [message.content for message in messages if message.type != "ai" and message.content]
        for word in f"I was told {told}".split(" "):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class State(MessagesState):
    runs: Annotated[int, operator.add]


@tool
def look() -> str:
    """Looks."""
    return "a tree"


def ask(state: State):
    if state["messages"][-1].content == "ask":
        return {"messages": [HumanMessage(content=f"answered {interrupt('Which one?')}")]}
    return {}


def talk(state: State):
    return {"messages": [Model().invoke(state["messages"])], "runs": 1}


graph = StateGraph(State)
graph.add_node("ask", ask)
graph.add_node("talk", talk)
graph.add_node("tools", ToolNode([look]))
graph.add_edge(START, "ask")
graph.add_edge("ask", "talk")
graph.add_conditional_edges("talk", lambda state: "tools" if state["messages"][-1].tool_calls else END)
graph.add_edge("tools", "talk")

agent = LangGraphAgent(name="test", graph=graph.compile(checkpointer=MemorySaver()), emit_interrupt_outcome=True)
app = FastAPI()
add_langgraph_fastapi_endpoint(app, agent, "/")
