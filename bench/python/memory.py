"""What AgentkitSaver keeps in memory: its process after some operations, and after many."""

import asyncio
import gc
import uuid
from pathlib import Path

from harness import connect, serve
from langgraph.checkpoint.base import empty_checkpoint

AT_ONCE = 16


def resident_mebibytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


async def operate(saver, operations):
    """Loads, puts and puts writes, in turn, on threads of three operations each."""

    async def client():
        for number in range(operations // AT_ONCE):
            if number % 3 == 0:
                place = {"thread_id": str(uuid.uuid4()), "checkpoint_ns": ""}
                assert await saver.aget_tuple({"configurable": place}) is None
            elif number % 3 == 1:
                checkpoint = empty_checkpoint()
                checkpoint["channel_values"] = {"messages": ["a message"] * 40}
                checkpoint["channel_versions"] = versions = {"messages": "1"}
                metadata = {"source": "loop", "step": 1, "parents": {}}
                config = await saver.aput({"configurable": place}, checkpoint, metadata, versions)
            else:
                await saver.aput_writes(config, [("messages", ["a message"])], "task")

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def main(arguments, go):
    async with connect("agentkit", arguments["url"]) as saver:
        await go()
        answer, done = {}, 0
        for operations in arguments["operations"]:
            await operate(saver, operations - done)
            done = operations
            gc.collect()
            answer[str(operations)] = resident_mebibytes()
        return answer


serve(main)
