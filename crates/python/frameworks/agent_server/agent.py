"""A graph of two steps, with a question to a person between them."""

from typing import Annotated

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


class State(TypedDict):
    said: Annotated[list[str], lambda before, new: before + new]


def listen(state):
    return {"said": [f"heard {len(state['said'])}"]}


def answer(state):
    if state["said"][-2] == "ask":
        return {"said": [interrupt("really?")]}
    return {"said": ["done"]}


builder = StateGraph(State)
builder.add_node("listen", listen)
builder.add_node("answer", answer)
builder.add_edge(START, "listen")
builder.add_edge("listen", "answer")
graph = builder.compile()
