"""The application: conversations over HTTP, answered by an agent that remembers.

uvicorn main:app
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from ag_ui.core import RunAgentInput, UserMessage
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AfterValidator, BaseModel, Field
from langchain_core.messages import HumanMessage
from yai_agentkit import AgentkitSaver, ConflictError, Turn, run_worker

import agui
from agent import build_graph
from conversations import Conversation, Conversations, Message, NotFound, Page, thread_at
from scripted_model import ScriptedModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    # Any chat model of LangChain's: ChatOpenAI(model="gpt-5-mini"), …
    model = ScriptedModel(delay=float(os.environ.get("MODEL_DELAY", "0")))
    # DATABASE_URL and the other settings of AgentKit; it connects, migrates and closes.
    async with AgentkitSaver.from_config() as checkpointer:
        graph = build_graph(model, checkpointer)
        # Goes on with the turns of processes that have died.
        worker = asyncio.create_task(run_worker(graph))
        yield {"conversations": Conversations(graph, checkpointer)}
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


app = FastAPI(title="Conversations with an agent that remembers", lifespan=lifespan)


def conversations(request: Request) -> Conversations:
    return request.state.conversations


Injected = Annotated[Conversations, Depends(conversations)]


class Title(BaseModel):
    title: Annotated[str | None, Field(max_length=255)] = None


class NewMessage(BaseModel):
    content: Annotated[str, Field(min_length=1)]


@app.post("/conversations")
async def create(body: Title, conversations: Injected) -> Conversation:
    return await conversations.create(body.title)


def valid_cursor(cursor: str | None) -> str | None:
    if cursor is not None:
        thread_at(cursor)
    return cursor


@app.get("/conversations")
async def list_conversations(
    conversations: Injected,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, AfterValidator(valid_cursor)] = None,
) -> Page:
    return await conversations.page(limit, cursor)


@app.get("/conversations/{id}")
async def get(id: str, conversations: Injected) -> Conversation:
    return await conversations.get(id)


@app.patch("/conversations/{id}")
async def rename(id: str, body: Title, conversations: Injected) -> Conversation:
    return await conversations.rename(id, body.title)


@app.delete("/conversations/{id}", status_code=204)
async def delete(id: str, conversations: Injected) -> None:
    await conversations.delete(id)


@app.get("/conversations/{id}/messages")
async def messages(id: str, conversations: Injected) -> list[Message]:
    return await conversations.messages(id)


async def turn(
    id: str,
    body: NewMessage,
    conversations: Injected,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> AsyncIterator[Turn]:
    # A dependency: it refuses before a stream begins, and ends after it.
    async with await conversations.turn(id, body.content, idempotency_key) as turn:
        yield turn


Begun = Annotated[Turn, Depends(turn)]


@app.post("/chats/{id}/messages")
async def send(turn: Begun, conversations: Injected) -> Message:
    """Answers when the turn is done."""
    events = [event async for event in conversations.answer(turn)]
    return events[-1].message


@app.post("/chats/{id}/messages/stream", response_class=EventSourceResponse)
async def stream(turn: Begun, conversations: Injected) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `token` for each piece of the answer, `tool`, and at the end `answer`."""
    async for event in conversations.answer(turn):
        yield ServerSentEvent(event=event.kind, data=event.message)


async def run_turn(run: RunAgentInput, conversations: Injected) -> AsyncIterator[Turn]:
    """The turn that a run is. The message is that of the person; of the others the state knows."""
    match run.messages:
        case [*_, UserMessage(id=id, content=str(content))] if content:
            message = HumanMessage(content, id=id)
        case _:
            raise HTTPException(422, "the last message must be a user's text")
    try:
        uuid.UUID(run.thread_id)
    except ValueError:
        raise HTTPException(422, "threadId: must be a UUID") from None
    async with conversations.turn_of_anybody(run.thread_id, message, run.run_id) as turn:
        yield turn


@app.post("/agui")
async def agui_run(
    run: RunAgentInput, turn: Annotated[Turn, Depends(run_turn)], conversations: Injected
) -> StreamingResponse:
    """Runs the agent for a front end that speaks AG-UI: `new HttpAgent({url: "…/agui"})`."""
    return StreamingResponse(agui.stream(run, turn, conversations), media_type="text/event-stream")


@app.exception_handler(NotFound)
async def not_found(*_: Any) -> JSONResponse:
    return JSONResponse({"detail": "no such conversation"}, status_code=404)


@app.exception_handler(ConflictError)
async def busy(*_: Any) -> JSONResponse:
    return JSONResponse({"detail": "another turn is running"}, status_code=409)


@app.exception_handler(ConnectionError)
async def unavailable(*_: Any) -> JSONResponse:
    detail = "the database does not answer"
    return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "1"})
