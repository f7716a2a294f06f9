"""The agent: a LangGraph graph of a model and its tools."""

from operator import or_
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command


class State(MessagesState):
    """All that is known of a conversation. Its fields are the channels of the checkpoints."""

    title: str | None
    facts: Annotated[dict[str, str], or_]


@tool
def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b


@tool
def remember(
    name: str, value: str, tool_call_id: Annotated[str, InjectedToolCallId]
) -> Command[Any]:
    """Keep a fact about the user, for this conversation."""
    message = ToolMessage(f"The user's {name} is {value}.", tool_call_id=tool_call_id)
    return Command(update={"facts": {name: value}, "messages": [message]})


TOOLS = [multiply, remember]


def build_graph(
    model: BaseChatModel, checkpointer: BaseCheckpointSaver[Any]
) -> CompiledStateGraph[State]:
    with_tools = model.bind_tools(TOOLS)

    async def agent(state: State, config: RunnableConfig) -> dict[str, Any]:
        facts = "\n".join(f"{name}: {value}" for name, value in state.get("facts", {}).items())
        messages = [SystemMessage(f"What you know of the user:\n{facts}"), *state["messages"]]
        return {"messages": [await with_tools.ainvoke(messages, config)]}

    graph = StateGraph(State)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode(TOOLS))
    graph.add_conditional_edges(START, next_node, ["agent", "tools", END])
    graph.add_conditional_edges("agent", next_node, ["tools", END])
    graph.add_edge("tools", "agent")
    return graph.compile(checkpointer=checkpointer)


def next_node(state: State) -> str:
    """What the state asks for: to run the open tool calls, an answer, or nothing."""
    match state.get("messages"):
        case [*_, AIMessage(tool_calls=calls)]:
            return "tools" if calls else END
        case [*_, _]:
            return "agent"
        case _:
            return END
