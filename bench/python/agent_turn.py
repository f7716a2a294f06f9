"""The workload "agent turn" through a LangGraph saver. Talks with `bench/src/python.rs`."""

import asyncio
import time
import uuid
from datetime import datetime, timezone

from harness import Latencies, connect, serve
from langgraph.checkpoint.base.id import uuid6

CHANNELS = ("messages", "context", "branch:to:agent")


class Client:
    def __init__(self, saver, number, arguments, begin, latencies):
        self.saver = saver
        self.turns = arguments["turns"]
        self.task_path = arguments["task_path"]
        self.messages = [
            {"role": "assistant", "content": content} for content in arguments["contents"]
        ]
        self.first_step = 1 + number % len(self.messages)  # Of the next turn.
        self.begin = begin + arguments["warm_up"]
        self.end = self.begin + arguments["measured"]
        self.latencies = latencies
        self.steps = self.measured_steps = 0

    async def run(self):
        while True:
            config = {"configurable": {"thread_id": str(uuid.uuid4()), "checkpoint_ns": ""}}
            self.step, self.versions = 0, {}
            for turn in range(self.turns):
                await self.load(config, exists=turn > 0)
                first, self.first_step = self.first_step, 1
                for count in range(first, len(self.messages) + 1):
                    config = await self.do_step(config, self.messages[:count])
                    if time.monotonic() >= self.end:
                        return

    async def load(self, config, exists):
        place = {"thread_id": config["configurable"]["thread_id"], "checkpoint_ns": ""}
        found = await self.timed("get", self.saver.aget_tuple({"configurable": place}))
        if not exists:
            assert found is None
        else:
            assert found.checkpoint["channel_values"]["messages"] == self.messages
            assert len(found.pending_writes) == 2

    async def do_step(self, config, messages):
        self.step += 1
        seen = dict(self.versions)
        for channel in CHANNELS:
            self.versions[channel] = self.saver.get_next_version(seen.get(channel), None)
        context = {
            "locale": "en", "step": self.step, "tools": ["search", "calculator"], "user": "user-42",
        }
        checkpoint = {
            "v": 4,
            "id": str(uuid6(clock_seq=-2)),
            "ts": datetime.now(timezone.utc).isoformat(),
            "channel_values": {"messages": messages, "context": context},
            "channel_versions": dict(self.versions),
            "versions_seen": {"__input__": {}, "agent": seen, "tools": seen},
            "updated_channels": sorted(CHANNELS),
        }
        metadata = {"source": "loop", "step": self.step, "parents": {}}
        put = self.saver.aput(config, checkpoint, metadata, dict(self.versions))
        config = await self.timed("put", put)
        writes = [("messages", messages[-1:]), ("context", context)]
        put_writes = self.saver.aput_writes(config, writes, str(uuid.uuid4()), self.task_path)
        await self.timed("put_writes", put_writes)
        self.steps += 1
        if self.begin <= time.monotonic() < self.end:
            self.measured_steps += 1
        return config

    async def timed(self, operation, call):
        begun = time.monotonic()
        result = await call
        now = time.monotonic()
        if self.begin <= now < self.end:
            self.latencies.add(operation, now - begun)
        return result


async def main(arguments, go):
    async with connect(arguments["saver"], arguments["url"]) as saver:
        await go()
        latencies, begin = Latencies(), time.monotonic()
        clients = [
            Client(saver, number, arguments, begin, latencies)
            for number in range(arguments["threads"])
        ]
        await asyncio.gather(*(client.run() for client in clients))
        return {
            "steps_per_second": sum(c.measured_steps for c in clients) / arguments["measured"],
            "steps": sum(client.steps for client in clients),
            **latencies.percentiles(),
        }


serve(main)
