"""LangGraph's Agent Server, in its runtime of PyPI, with the saver as its custom checkpointer."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest
from langgraph_sdk import get_sync_client
from yai_agentkit import AgentkitSaver

PATIENCE = 120


class AgentServer:
    def __init__(self, directory, database):
        self.directory, self.database = directory, database
        source = Path(__file__).with_name("agent_server")
        shutil.copytree(source, directory, dirs_exist_ok=True)
        self.start()

    def start(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.log = open(self.directory / "log", "ab")
        options = ["--port", str(port), "--no-browser", "--no-reload"]
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("langgraph"), "dev", *options],
            cwd=self.directory,
            env=os.environ | {"AGENT_SERVER_DATABASE": self.database, "LANGSMITH_TRACING": "false"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.client = get_sync_client(url=f"http://127.0.0.1:{port}")
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ok").is_success:
                    return
            except httpx.TransportError:
                pass
            text = (self.directory / "log").read_text()
            assert self.process.poll() is None and time.monotonic() < ends, text
            time.sleep(0.1)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def server(tmp_path, url):
    server = AgentServer(tmp_path / "server", url)
    yield server
    server.kill()


def checkpoints(url, thread_id):
    with AgentkitSaver.from_conn_string(url) as saver:
        return list(saver.list({"configurable": {"thread_id": thread_id}}))


# A server takes seconds to start: each test has one database.
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_threads_of_the_agent_server_live_in_our_tables(server, url):
    threads, runs = server.client.threads, server.client.runs
    thread = threads.create()["thread_id"]
    said = ["hi", "heard 1", "done"]
    assert runs.wait(thread, "agent", input={"said": ["hi"]})["said"] == said
    assert "AgentkitSaver" in (server.directory / "log").read_text()
    stored = checkpoints(url, thread)
    assert stored[0].checkpoint["channel_values"]["said"] == said
    assert stored[0].metadata["graph_id"] == "agent"
    history = threads.get_history(thread)
    assert [state["checkpoint"]["checkpoint_id"] for state in history] == [
        found.checkpoint["id"] for found in stored
    ]

    copy = threads.copy(thread)["thread_id"]
    assert threads.get_state(copy)["values"]["said"] == said
    assert len(checkpoints(url, copy)) == len(stored)

    threads.update_state(thread, {"said": ["by hand"]})
    assert threads.get_state(thread)["values"]["said"] == [*said, "by hand"]
    assert len(checkpoints(url, thread)) == len(stored) + 1

    # The runtime in memory knows no other strategy.
    threads.prune([copy], strategy="delete")
    assert checkpoints(url, copy) == []
    threads.delete(thread)
    assert checkpoints(url, thread) == []
    # One that never ran is copied to an empty one.
    empty = threads.create()["thread_id"]
    assert threads.get_state(threads.copy(empty)["thread_id"])["values"] in ({}, None)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_question_is_answered_after_the_server_was_killed(server, url):
    thread = str(uuid.uuid4())
    server.client.threads.create(thread_id=thread)
    asked = server.client.runs.wait(thread, "agent", input={"said": ["ask"]})
    assert asked["__interrupt__"][0]["value"] == "really?"
    server.kill()
    server.start()
    # What the runtime in memory keeps of threads may be lost; the checkpoints are not.
    server.client.threads.create(thread_id=thread, if_exists="do_nothing")
    done = server.client.runs.wait(thread, "agent", command={"resume": "yes"})
    assert done["said"] == ["ask", "heard 1", "yes"]
