"""Turns a second of agents in the server's process, behind a URL and behind AG-UI, on loopback.

    agents.py BINARY [--database URL] [--seconds 8] [--connections 1 16]

Each turn is one call of a tool and an answer: `What is 17 * 23?` for the offline agent, two steps and a call for a program behind a
URL (three requests), and a run for an agent of AG-UI, whose tools are its own. Programs and clients are one process of asyncio beside the
server, and keep their connections. Chats are new, of some ten turns each. Prints a table in Markdown: turns a second, and for each turn what
goes to the program and back, heads of HTTP included.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURNS = 10  # Of a chat.


async def message(reader):
    """The first line and the body of a request or a response, and the bytes of all."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return lines[0], body, len(head) + len(body)


class Program:
    """What both programs share: what they were asked, and what they said."""

    def __init__(self, answer, kind):
        self.answer, self.kind = answer, kind
        self.requests = self.received = self.sent = 0

    async def talk(self, reader, writer):
        try:
            while True:
                _, body, size = await message(reader)
                answer = self.answer(json.loads(body))
                answer = f"HTTP/1.1 200 OK\r\ncontent-type: {self.kind}\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode()
                writer.write(answer)
                self.requests += 1
                self.received += size
                self.sent += len(answer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    async def start(self):
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, backlog=1000)
        return server.sockets[0].getsockname()[1]


def remote(asked):
    if asked["kind"] == "tool":
        return json.dumps({"result": "391"})
    if asked["messages"][-1]["role"] == "tool":
        return json.dumps({"answer": "17 * 23 = 391"})
    call = {"name": "calculate", "arguments": {"expression": "17 * 23"}, "traits": {"is_repeatable": True}}
    return json.dumps({"tool_calls": [call]})


def agui(asked):
    ids = {"threadId": asked["threadId"], "runId": asked["runId"]}
    events = [
        {"type": "RUN_STARTED"} | ids,
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "17 * 23 = 391"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "RUN_FINISHED"} | ids,
    ]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


async def client(port, agent, until):
    """Turns until it is time, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def post(path, body):
        body = json.dumps(body)
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        status, body, _ = await message(reader)
        if " 200 " not in status:
            raise SystemExit(f"{agent}: {path}: {status} {body}")
        return json.loads(body)

    turns = 0
    while time.monotonic() < until:
        chat = await post("/conversations", {"metadata": {"agent": agent}} if agent else {})
        for _ in range(TURNS):
            answer = await post(f"/chats/{chat['id']}/messages", {"content": "What is 17 * 23?"})
            if "391" not in answer["content"]:
                raise SystemExit(f"{agent}: {answer}")
            turns += 1
            if time.monotonic() >= until:
                break
    writer.close()
    return turns


def serve(binary, directory, database):
    command = [binary, "--bind", "127.0.0.1:0", "--log", "warn"]
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database}
    server = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if "listens on http://" in line:
            return server, int(line.split("listens on http://")[1].split(",")[0].split()[0].rsplit(":", 1)[1])
    raise SystemExit("the server does not start")


async def measure(options, directory):
    programs = {"remote": Program(remote, "application/json"), "agui": Program(agui, "text/event-stream")}
    settings = ""
    for name, program in programs.items():
        kind = 'kind = "agui"\n' if name == "agui" else ""
        settings += f'[agents.{name}]\n{kind}url = "http://127.0.0.1:{await program.start()}/"\n'
    Path(directory, "agentkit.toml").write_text(settings)
    server, port = serve(options.binary, directory, options.database or f"sqlite:{directory}/bench.db")
    names = {"": "in the process", "remote": "behind a URL", "agui": "behind AG-UI"}
    print("| agent | connections | turns/s | requests a turn | bytes a turn to it | and back |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    try:
        for connections in options.connections:
            for agent, name in names.items():
                await asyncio.gather(*[client(port, agent, time.monotonic() + 1) for _ in range(connections)])
                program = programs.get(agent, Program(None, ""))
                program.requests = program.received = program.sent = 0
                begin = time.monotonic()
                clients = [client(port, agent, begin + options.seconds) for _ in range(connections)]
                turns = sum(await asyncio.gather(*clients))
                each = [program.requests / turns, program.received / turns, program.sent / turns]
                rate = turns / (time.monotonic() - begin)
                print(f"| {name} | {connections} | {rate:,.0f} | {each[0]:.1f} | {each[1]:,.0f} | {each[2]:,.0f} |", flush=True)
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--database")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    options.binary = str(Path(options.binary).resolve())
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
