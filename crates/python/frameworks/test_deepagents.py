"""Deep agents, whose messages and files are delta channels, on our saver: what they do on LangGraph's in memory."""

import asyncio

from deepagents import create_deep_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from yai_agentkit import AgentkitSaver


class Scripted(GenericFakeChatModel):
    """Says what it is given to say, whichever tools there are."""

    def bind_tools(self, tools, **_):
        return self


def call(number, name, **arguments):
    tool_call = {"name": name, "args": arguments, "id": f"call {number}", "type": "tool_call"}
    return AIMessage("", tool_calls=[tool_call], id=f"message {number}")


def agent(saver, counted, first):
    """It writes a file, counts, and answers; `first` numbers its messages."""

    def count(word: str) -> str:
        """Count a word."""
        counted.append(word)
        return f"{word}: {len(counted)}"

    said = [
        call(first, "write_file", file_path=f"/notes {first}.txt", content="rye\n" * 30),
        call(first + 1, "count", word=f"word {first}"),
        AIMessage(f"done {first}", id=f"message {first + 2}"),
    ]
    model = Scripted(messages=iter(said))
    return create_deep_agent(model=model, tools=[count], checkpointer=saver)


def asked(number):
    return {"messages": [{"role": "user", "content": f"question {number}", "id": f"asked {number}"}]}


def seen(state):
    messages = [
        (type(message).__name__, message.content, getattr(message, "tool_calls", None))
        if not isinstance(message, ToolMessage)
        else (message.name, message.content, message.tool_call_id)
        for message in state.values["messages"]
    ]
    files = {
        path: {key: value for key, value in file.items() if not key.endswith("_at")}
        for path, file in state.values.get("files", {}).items()
    }
    return messages, files, state.next


def test_deep_agents_go_on_as_in_memory(url):
    config = {"configurable": {"thread_id": "one"}}
    histories = []
    for saver in [AgentkitSaver.from_conn_string(url), InMemorySaver()]:
        counted = []
        for number in [0, 10, 20]:
            agent(saver, counted, number).invoke(asked(number), config)
        graph = agent(saver, counted, 30)
        kinds = {name: type(channel).__name__ for name, channel in graph.channels.items()}
        assert kinds["messages"] == kinds["files"] == "DeltaChannel"
        history = [seen(state) for state in graph.get_state_history(config)]
        assert counted == ["word 0", "word 10", "word 20"]
        assert set(history[0][1]) == {f"/notes {number}.txt" for number in [0, 10, 20]}
        # A fork from the middle goes on from what was there then.
        middle = [state for state in graph.get_state_history(config)][len(history) // 2]
        graph.invoke(asked(30), middle.config)
        history.append(seen(graph.get_state(config)))
        histories.append(history)
        if isinstance(saver, AgentkitSaver):
            saver.copy_thread("one", "two")
            copy = {"configurable": {"thread_id": "two"}}
            assert seen(graph.get_state(copy)) == history[-1]
            saver.prune(["one"])
            assert seen(graph.get_state(config)) == history[-1]
            saver.close()
    assert histories[0] == histories[1]


def test_a_deep_agent_in_turns_answers_a_repeated_request_once(url):
    thread, counted = "0192d3a0-0000-7000-8000-000000000001", []

    async def request(saver, number):
        async with saver.turn(thread, input=asked(number), key=f"key {number}") as turn:
            if not turn.done:
                state = await agent(saver, counted, number).ainvoke(turn.input, turn.config)
                turn.result = state["messages"][-1].content
        return turn.result

    async def requests():
        async with AgentkitSaver.from_conn_string(url) as saver:
            return [await request(saver, number) for number in [0, 0, 10, 10]]

    assert asyncio.run(requests()) == ["done 0", "done 0", "done 10", "done 10"]
    assert counted == ["word 0", "word 10"]
