"""Conversations in Python, on the tables of the server."""

import uuid

import pytest
from yai_agentkit import AgentkitSaver, ConflictError, NotFoundError

from turn_graph import STEPS, counting_graph

WHOLE = ["hi", *STEPS]


def said(messages):
    return [(message.role, message.content, message.metadata) for message in messages]


def test_a_turn_keeps_what_is_said(saver):
    conversation = saver.conversations.create("A trip", metadata={"to": "Ulm"})
    assert conversation.thread_id == conversation.id
    graph = counting_graph(saver)
    with saver.turn(conversation.thread_id, input={"seen": ["hi"]}, message="hi") as turn:
        graph.invoke(turn.input, turn.config)
        turn.add_message("tool", "18 degrees", metadata={"sunny": True})
        turn.add_message("assistant", "It is warm")
        assert said(saver.conversations.messages(conversation.id)) == [("user", "hi", None)]
    messages = saver.conversations.messages(conversation.id)
    expected = [
        ("user", "hi", None),
        ("tool", "18 degrees", {"sunny": True}),
        ("assistant", "It is warm", None),
    ]
    assert said(messages) == expected
    page = saver.conversations.messages(conversation.id, limit=1, after=messages[0])
    assert page == [messages[1]]

    # A turn that fails keeps what was said.
    with pytest.raises(ZeroDivisionError), saver.turn(conversation.id, message="and?") as turn:
        turn.add_message("assistant", "well")
        1 / 0  # noqa: B018

    fork = saver.conversations.fork(conversation.id)
    assert fork.title == "A trip"
    assert fork.metadata == {"to": "Ulm", "forked_from": {"conversation_id": conversation.id}}
    both = [saver.conversations.messages(id) for id in (conversation.id, fork.id)]
    assert said(both[0]) == said(both[1])
    with saver.turn(fork.thread_id, input={"seen": ["hi"]}) as turn:
        assert graph.invoke(turn.input, turn.config) == {"seen": WHOLE + WHOLE}
    thread = {"configurable": {"thread_id": conversation.id}}
    assert graph.get_state(thread).values == {"seen": WHOLE}


def test_a_thread_has_its_conversation_with_its_first_turn(saver):
    thread_id = str(uuid.uuid4())
    assert saver.conversations.get(thread_id) is None
    with saver.turn(thread_id):
        with pytest.raises(ConflictError):
            saver.conversations.delete(thread_id)
    found = saver.conversations.get(thread_id)
    assert (found.id, found.thread_id, found.title) == (thread_id, thread_id, None)
    saver.conversations.delete(thread_id)
    assert saver.conversations.get(thread_id) is None
    assert saver.conversations.messages(thread_id) == []
    with pytest.raises(NotFoundError):
        saver.conversations.delete(thread_id)
    with pytest.raises(NotFoundError):
        saver.conversations.fork(thread_id)


def test_a_conversation_adopts_a_thread(saver):
    graph, thread_id = counting_graph(saver), str(uuid.uuid4())
    graph.invoke({"seen": ["hi"]}, {"configurable": {"thread_id": thread_id}})
    conversation = saver.conversations.create(thread_id=thread_id)
    assert conversation.id != thread_id
    with saver.turn(thread_id, input={"seen": ["hi"]}, message="hi") as turn:
        assert graph.invoke(turn.input, turn.config) == {"seen": WHOLE + WHOLE}
    assert said(saver.conversations.messages(conversation.id)) == [("user", "hi", None)]
    with pytest.raises(ConflictError):
        saver.conversations.create(thread_id=thread_id)


async def test_conversations_are_listed_on_an_event_loop(url):
    async with AgentkitSaver.from_conn_string(url) as saver:
        conversations = saver.conversations
        made = [await conversations.acreate(str(number)) for number in range(5)]
        first = await conversations.alist(limit=3)
        rest = await conversations.alist(limit=3, after=first[-1])
        assert [*first, *rest] == made[::-1]
        assert await conversations.aget(made[0].id) == made[0]
        assert await conversations.amessages(made[0].id) == []
        fork = await conversations.afork(made[0].id)
        await conversations.adelete(made[0].id)
        assert await conversations.aget(made[0].id) is None
        assert (await conversations.aget(fork.id)).title == "0"
