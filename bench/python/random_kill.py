"""Worker processes on one database, stopped and killed at random while they answer requests.

    random_kill.py URL [--saver agentkit|postgres] [--seconds 60] [--workers 2] [--threads 16] [--seed 1]

Every worker answers every request, as retries that reach several servers do. A request runs a graph with
the channels of deepagents, whose two tools write a line each to a file: the effects on the world. After
`seconds` nobody is harmed any more, and the workers end what is left. Then it counts:

    forks     checkpoints with more than one child
    doubled   effects that were taken more than once, and answers that stand in a state twice
    lost      requests without an answer, and effects that are missing without a question to a person
    failed    workers that ended by an error, and were started anew
    asked     effects that began and left no result: a person settles them by hand (agentkit alone)

With `--saver agentkit` requests are turns and tools run once; with `--saver postgres` each worker does with
LangGraph's AsyncPostgresSaver what it can: it asks the state whether a request is answered, and goes on
with a thread that was left in the middle.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from operator import add
from pathlib import Path
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command
from yai_agentkit import AgentkitSaver, Fenced, current_turn

TURNS = 4
"""Requests of a thread, one after the other."""
TOOLS = ["mail", "pay"]
LEASE = 1.0
BY_HAND = "settled by hand"
OPTIONS = {"saver": "agentkit", "seconds": 60.0, "workers": 2, "threads": 16, "seed": 1}


def join_files(files, writes):
    return {name: file for write in [files or {}, *writes] for name, file in write.items()}


class State(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=5)
    ]
    files: Annotated[dict, DeltaChannel(join_files, snapshot_frequency=5)]
    answered: Annotated[list[int], add]
    settled: Annotated[list[str], add]
    request: int


class World:
    """What tools do stays done, whoever forgets it."""

    def __init__(self, file):
        self.file = file

    async def take_effect(self, thread_id, request, tool):
        await asyncio.sleep(random.uniform(0, 0.03))
        line = f"{thread_id} {request} {tool}\n".encode()
        written = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(written, line)
        finally:
            os.close(written)
        await asyncio.sleep(random.uniform(0, 0.03))
        return "done"

    def effects(self):
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return collections.Counter(tuple(line.split()) for line in lines)


def build(saver, world, thread_of, once):
    def plan(state):
        return {"files": {f"/plan-{state['request']}.md": {"content": ["mail", "pay"]}}}

    def node(tool):
        async def run(state, config):
            thread_id, request = thread_of(config), state["request"]
            given = (thread_id, str(request), tool)
            if once:
                name = f"{tool} {request}"
                result = await current_turn().once(name, world.take_effect, *given)
            else:
                result = await world.take_effect(*given)
            return {"settled": [f"{request} {tool}"] if result == BY_HAND else []}

        return run

    def answer(state):
        request = state["request"]
        message = AIMessage(f"answer {request}", id=f"answer-{request}")
        return {"messages": [message], "answered": [request]}

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("answer", answer)
    graph.add_edge(START, "plan")
    for tool in TOOLS:
        graph.add_node(tool, node(tool))
        graph.add_edge("plan", tool)
    graph.add_edge(TOOLS, "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=saver)


def question(request):
    message = HumanMessage(f"question {request}", id=f"question-{request}")
    return {"messages": [message], "request": request}


def thread_of(config):
    return config["configurable"]["thread_id"]


async def answer_by_turns(saver, graph, thread_id, request):
    async def turn(key, input):
        while True:
            try:
                async with saver.turn(
                    thread_id, key=key, input=input, on_busy="enqueue", lease=LEASE
                ) as turn:
                    if not turn.done:
                        turn.result = await graph.ainvoke(
                            turn.input, turn.config, durability="sync"
                        )
                return turn.result
            except Fenced:
                continue  # Somebody else goes on with it: what comes of it is known by the key.

    result = await turn(str(request), question(request))
    answers = 0
    while asked := result.get("__interrupt__"):
        answers += 1
        resume = {interrupt.id: {"result": BY_HAND} for interrupt in asked}
        result = await turn(f"{request}, answer {answers}", Command(resume=resume))


async def answer_by_state(graph, thread_id, request):
    place = {"configurable": {"thread_id": thread_id}}
    while True:
        state = await graph.aget_state(place)
        if request in state.values.get("answered", []):
            return
        input = None if state.next else question(request)
        await graph.ainvoke(input, place, durability="sync")


async def work(url, saver, directory, threads):
    world = World(Path(directory) / "effects")

    async def answer_all(answer):
        async def of_thread(thread_id):
            for request in range(TURNS):
                await answer(thread_id, request)

        threads_of_mine = random.sample(threads, len(threads))
        await asyncio.gather(*(of_thread(thread_id) for thread_id in threads_of_mine))

    if saver == "agentkit":
        async with AgentkitSaver.from_conn_string(url) as saver:
            graph = build(saver, world, thread_of, once=True)
            await answer_all(lambda *request: answer_by_turns(saver, graph, *request))
    else:
        from harness import connect

        async with connect("postgres-pool", url) as saver:
            graph = build(saver, world, thread_of, once=False)
            await answer_all(lambda *request: answer_by_state(graph, *request))


class Workers:
    def __init__(self, url, options, directory, threads):
        arguments = [url, options["saver"], str(directory), *threads]
        self.command = [sys.executable, __file__, "--work", *arguments]
        self.processes = [self.start() for _ in range(options["workers"])]
        self.harm = collections.Counter()
        self.stopped = {}

    def start(self):
        return subprocess.Popen(self.command)

    def step(self, harms):
        """Wakes whoever has slept enough, and harms somebody; whether anybody is at work."""
        now = time.monotonic()
        for process, until in list(self.stopped.items()):
            if now >= until or not harms:
                process.send_signal(signal.SIGCONT)
                del self.stopped[process]
        at_work = [place for place, each in enumerate(self.processes) if each.poll() is None]
        for place, each in enumerate(self.processes):
            if each.poll() not in (None, 0, -signal.SIGKILL):
                self.processes[place] = self.start()
                self.harm["failed"] += 1
        awake = [place for place in at_work if self.processes[place] not in self.stopped]
        if harms and awake:
            place = random.choice(awake)
            process = self.processes[place]
            if random.random() < 0.5:
                process.send_signal(signal.SIGSTOP)
                self.stopped[process] = now + random.uniform(0.1, 3 * LEASE)
                self.harm["stopped"] += 1
            else:
                process.kill()
                process.wait()
                self.processes[place] = self.start()
                self.harm["killed"] += 1
        return bool(at_work)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


def run(url, **given):
    """What it comes to, as `{"forks": 0, …}`."""
    options = OPTIONS | given
    random.seed(options["seed"])
    threads = [str(uuid.UUID(int=random.getrandbits(128), version=4)) for _ in range(options["threads"])]
    with tempfile.TemporaryDirectory() as directory:
        begun = time.monotonic()
        workers = Workers(url, options, directory, threads)
        try:
            while workers.step(time.monotonic() < begun + options["seconds"]):
                assert time.monotonic() < begun + 5 * options["seconds"] + 60, "no end"
                time.sleep(random.uniform(0.05, 0.6))
        finally:
            workers.end()
        took = time.monotonic() - begun
        counted = asyncio.run(count(url, World(Path(directory) / "effects"), threads))
    return {**counted, **workers.harm, "requests": TURNS * len(threads), "took": round(took, 1)}


async def count(url, world, threads):
    counted = collections.Counter(forks=0, doubled=0, lost=0, asked=0)
    effects = world.effects()
    async with AgentkitSaver.from_conn_string(url) as saver:
        graph = build(saver, world, thread_of, once=False)
        for thread_id in threads:
            place = {"configurable": {"thread_id": thread_id}}
            children = collections.Counter()
            async for found in saver.alist(place):
                if found.parent_config:
                    children[found.parent_config["configurable"]["checkpoint_id"]] += 1
            counted["forks"] += sum(count - 1 for count in children.values())
            values = (await graph.aget_state(place)).values
            answers = collections.Counter(values.get("answered", []))
            settled = set(values.get("settled", []))
            counted["asked"] += len(settled)
            for request in range(TURNS):
                counted["lost"] += answers[request] == 0
                counted["doubled"] += max(0, answers[request] - 1)
                for tool in TOOLS:
                    taken = effects[thread_id, str(request), tool]
                    counted["doubled"] += max(0, taken - 1)
                    counted["lost"] += taken == 0 and f"{request} {tool}" not in settled
    return dict(counted)


def main():
    if sys.argv[1:2] == ["--work"]:
        url, saver, directory, *threads = sys.argv[2:]
        asyncio.run(work(url, saver, directory, threads))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    for name, default in OPTIONS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    print(json.dumps(run(arguments.pop("url"), **arguments)))


if __name__ == "__main__":
    main()
