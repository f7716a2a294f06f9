"""The original design of AgentKit (its chapter 004), as small as it can be: FastAPI, Tortoise ORM on
asyncpg, LangGraph with AsyncPostgresSaver. `uvicorn original:app`, with DATABASE_URL."""

import operator
import os
import uuid
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from fastapi import FastAPI, HTTPException
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from tortoise import Tortoise, fields
from tortoise.models import Model


class AgentConversation(Model):
    id = fields.UUIDField(primary_key=True)
    title = fields.CharField(max_length=255, null=True)
    metadata_ = fields.JSONField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    updated_at = fields.DatetimeField(auto_now=True)

    class Meta:
        table = "agent_conversations"


class AgentMessage(Model):
    id = fields.UUIDField(primary_key=True)
    conversation = fields.ForeignKeyField("models.AgentConversation", related_name="messages")
    role = fields.CharField(max_length=50)
    content = fields.TextField()
    metadata_ = fields.JSONField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "agent_messages"


class TortoiseRepository:
    def __init__(self, model_cls):
        self._model_cls = model_cls

    async def get(self, id):
        return await self._model_cls.get_or_none(id=id)

    async def add(self, entity):
        await entity.save(force_create=True)
        return entity


conversations = TortoiseRepository(AgentConversation)
messages = TortoiseRepository(AgentMessage)


class State(TypedDict):
    messages: Annotated[list[dict[str, Any]], operator.add]


async def decide(state):
    """Asks for a tool, and answers with its result: as our offline agent, without reading."""
    last = state["messages"][-1]
    if last["role"] == "user":
        expression = last["content"].removeprefix("What is ").removesuffix("?")
        call = {"name": "calculate", "arguments": {"expression": expression}}
        return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    return {"messages": [{"role": "assistant", "content": f"It is {last['content']}."}]}


async def calculate(state):
    [call] = state["messages"][-1]["tool_calls"]
    left, right = call["arguments"]["expression"].split(" * ")
    return {"messages": [{"role": "tool", "content": str(int(left) * int(right))}]}


def build(saver):
    graph = StateGraph(State)
    graph.add_node("decide", decide)
    graph.add_node("calculate", calculate)
    graph.add_edge(START, "decide")
    graph.add_conditional_edges(
        "decide", lambda state: "calculate" if "tool_calls" in state["messages"][-1] else END
    )
    graph.add_edge("calculate", "decide")
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def lifespan(app):
    url = os.environ["DATABASE_URL"]
    await Tortoise.init(
        config={
            "connections": {
                "default": url.replace("postgresql://", "asyncpg://") + "?minsize=1&maxsize=20"
            },
            "apps": {"models": {"models": [__name__], "default_connection": "default"}},
        },
        _enable_global_fallback=True,
    )
    await Tortoise.generate_schemas()
    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()
        app.state.graph = build(saver)
        yield
    await Tortoise.close_connections()


app = FastAPI(lifespan=lifespan)


class NewConversation(BaseModel):
    title: str | None = None
    metadata: Any = None


class NewMessage(BaseModel):
    content: str


def conversation_body(conversation):
    return {
        "id": conversation.id,
        "title": conversation.title,
        "metadata": conversation.metadata_,
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
    }


@app.get("/readyz")
async def ready():
    return {}


@app.post("/conversations", status_code=201)
async def create_conversation(body: NewConversation):
    conversation = AgentConversation(id=uuid.uuid4(), title=body.title, metadata_=body.metadata)
    return conversation_body(await conversations.add(conversation))


@app.get("/conversations/{id}")
async def get_conversation(id: uuid.UUID):
    if (conversation := await conversations.get(id)) is None:
        raise HTTPException(404)
    return conversation_body(conversation)


@app.post("/chats/{id}/messages")
async def chat(id: uuid.UUID, body: NewMessage):
    if (conversation := await conversations.get(id)) is None:
        raise HTTPException(404)
    question = AgentMessage(
        id=uuid.uuid4(), conversation=conversation, role="user", content=body.content
    )
    await messages.add(question)
    state = await app.state.graph.ainvoke(
        {"messages": [{"role": "user", "content": body.content}]},
        {"configurable": {"thread_id": str(id)}},
        durability="sync",
    )
    content = state["messages"][-1]["content"]
    answer = AgentMessage(
        id=uuid.uuid4(), conversation=conversation, role="assistant", content=content
    )
    await messages.add(answer)
    return {"id": answer.id, "role": "assistant", "content": content}
