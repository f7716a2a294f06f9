"""Turns: one owner a thread at a time, whatever becomes of its process."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from yai_agentkit import (
    AgentkitSaver,
    Busy,
    Fenced,
    TurnCancelled,
    TurnFailed,
    current_turn,
    run_worker,
)

from turn_graph import STEPS, counting_graph

SECONDS = 60
WHOLE = ["hi", *STEPS]
INPUT = {"seen": ["hi"]}

on_both = pytest.mark.parametrize("url", ["postgres", "sqlite"], indirect=True)


def new_thread():
    return str(uuid.uuid4())


def config(thread_id):
    return {"configurable": {"thread_id": thread_id}}


def until(happens):
    ends = time.monotonic() + SECONDS
    while not (found := happens()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


def test_a_turn_runs_a_graph_and_keeps_its_result(saver):
    graph, thread_id = counting_graph(saver), new_thread()
    with saver.turn(thread_id, input=INPUT, key="first") as turn:
        assert (turn.attempt, turn.done, turn.input) == (1, False, INPUT)
        assert current_turn() is turn
        turn.result = graph.invoke(turn.input, turn.config)
        ran = turn.id
    with pytest.raises(RuntimeError):
        current_turn()
    found = saver.get_tuple(config(thread_id))
    assert found.checkpoint["channel_values"]["seen"] == WHOLE
    assert found.metadata["run_id"] == ran
    before = len(list(saver.list(config(thread_id))))
    with saver.turn(thread_id, input={"seen": ["again"]}, key="first") as again:
        assert (again.done, again.id, again.result) == (True, ran, {"seen": WHOLE})
        with pytest.raises(RuntimeError, match="had ended"):
            again.config
    assert len(list(saver.list(config(thread_id)))) == before
    # Another key is another turn, with the next epoch.
    with saver.turn(thread_id, input=INPUT, key="second") as second:
        assert second.epoch == 2
        second.result = graph.invoke(second.input, second.config)
    assert second.result == {"seen": WHOLE + WHOLE}


async def test_a_turn_runs_a_graph_on_an_event_loop(url):
    async with AgentkitSaver.from_conn_string(url) as saver:
        graph, thread_id = counting_graph(saver), new_thread()
        for durability in ["sync", "async", "exit"]:
            async with saver.turn(thread_id, input=INPUT) as turn:
                turn.result = await graph.ainvoke(turn.input, turn.config, durability=durability)
        assert turn.result["seen"] == 3 * WHOLE
        # Within one turn a state is changed under the same fence.
        async with saver.turn(thread_id) as turn:
            after = await graph.aupdate_state(turn.config, {"seen": ["update"]}, as_node="four")
            await graph.aupdate_state(after, {"seen": ["twice"]}, as_node="four")
        state = await graph.aget_state(config(thread_id))
        assert state.values["seen"][-2:] == ["update", "twice"]


def test_a_busy_thread_refuses_waits_or_is_interrupted(saver):
    graph, thread_id = counting_graph(saver), new_thread()
    with saver.turn(thread_id, input=INPUT) as first:
        with pytest.raises(Busy):
            saver.turn(thread_id, input=INPUT).__enter__()
        with pytest.raises(Busy):
            saver.turn(thread_id, input=INPUT, on_busy="enqueue", timeout=0.1).__enter__()
    # What waited in vain is the next.
    [waiting] = [turn for turn in saver.due(limit=1000) if turn.thread_id == thread_id]
    with waiting:
        waiting.result = graph.invoke(waiting.input, waiting.config)

    order = []

    def wait(name):
        with saver.turn(thread_id, input=name, on_busy="enqueue") as turn:
            order.append(turn.input)

    with saver.turn(thread_id):
        waiting = [threading.Thread(target=wait, args=[name]) for name in "abc"]
        for thread in waiting:
            thread.start()
            time.sleep(0.2)
        order.append("first")
    for thread in waiting:
        thread.join(SECONDS)
    assert order == ["first", "a", "b", "c"]


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
def test_what_is_interrupted_writes_no_more(saver, on_busy):
    graph, thread_id = counting_graph(saver), new_thread()
    with saver.turn(thread_id, input=INPUT, message="one") as turn:
        graph.invoke(turn.input, turn.config)
    first = saver.turn(thread_id, input=INPUT, message="two", key="two")
    with pytest.raises(Fenced), first:
        graph.invoke(first.input, first.config)
        with saver.turn(thread_id, input=INPUT, message="three", on_busy=on_busy) as second:
            with pytest.raises(Fenced):
                saver.put(first.config, empty_checkpoint(), {}, {})
            with pytest.raises(Fenced):
                place = {"thread_id": thread_id, "checkpoint_id": "1"}
                place = {"configurable": {**first.config["configurable"], **place}}
                saver.put_writes(place, [("seen", ["late"])], "task")
            second.result = graph.invoke(second.input, second.config)
    with pytest.raises(TurnCancelled):
        saver.turn(thread_id, key="two").__enter__()
    done = 3 if on_busy == "interrupt" else 2
    assert second.result["seen"] == done * WHOLE


def test_a_turn_that_fails_stays_so(saver):
    thread_id = new_thread()
    with pytest.raises(ZeroDivisionError), saver.turn(thread_id, key="key"):
        1 / 0  # noqa: B018
    with pytest.raises(TurnFailed, match="ZeroDivisionError: division by zero"):
        saver.turn(thread_id, key="key").__enter__()
    with saver.turn(thread_id):
        pass


async def test_a_turn_that_is_cancelled_or_dropped_goes_on(url):
    async with AgentkitSaver.from_conn_string(url) as saver:
        thread_id = new_thread()

        async def due():
            for _ in range(SECONDS * 50):
                found = [turn for turn in await saver.adue() if turn.thread_id == thread_id]
                if found:
                    return found
                await asyncio.sleep(0.02)

        async def hold():
            async with saver.turn(thread_id, input="kept", key="key"):
                await asyncio.sleep(SECONDS)

        held = asyncio.create_task(hold())
        await asyncio.sleep(0.5)
        assert await saver.adue() == []
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        [left] = await due()
        async with left:
            assert (left.input, left.attempt) == ("kept", 1)
            # Nobody else has it now, with the same key or without.
            with pytest.raises(Busy):
                await saver.turn(thread_id, key="key", timeout=0.1).__aenter__()
            left.result = "done"
        async with saver.turn(thread_id, key="key") as again:
            assert (again.done, again.result) == (True, "done")

        dropped = saver.turn(thread_id, input="dropped")
        await dropped.__aenter__()
        del dropped
        gc.collect()
        [left] = await due()
        async with left:
            assert left.input == "dropped"


def test_what_can_have_no_turn_says_so(saver):
    with pytest.raises(ValueError, match="thread_id: must be a UUID"):
        saver.turn("1").__enter__()
    with pytest.raises(ValueError, match="on_busy: must be"):
        saver.turn(new_thread(), on_busy="wait").__enter__()
    with pytest.raises(ValueError, match="lease: must be positive"):
        saver.turn(new_thread(), lease=0).__enter__()


def worker(url, thread_id, lease, log, pause):
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("turn_worker.py"), url, thread_id]
        + [str(lease), str(log), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


@on_both
def test_a_killed_turn_goes_on_from_its_last_superstep(url, tmp_path):
    with AgentkitSaver.from_conn_string(url) as saver:
        for killed_after in range(len(STEPS)):
            thread_id, log = new_thread(), tmp_path / f"{killed_after}.log"
            process = worker(url, thread_id, 1, log, 0.15)
            try:
                until(lambda: len(list(saver.list(config(thread_id)))) >= killed_after + 2)
            finally:
                process.kill()
                process.wait(SECONDS)
            known = saver.get_tuple(config(thread_id)).checkpoint["channel_values"]["seen"]
            # The same request again: it waits for the lease, and goes on.
            graph = counting_graph(saver, log)
            with saver.turn(thread_id, input=INPUT, key="key", timeout=SECONDS) as turn:
                if not turn.done:
                    assert turn.input is None
                    turn.result = graph.invoke(turn.input, turn.config)
            assert turn.result["seen"] == WHOLE
            steps = log.read_text().split()
            assert [step for step in STEPS if step in known or steps.count(step) == 1] == STEPS


@on_both
def test_a_worker_that_slept_past_its_lease_writes_nothing(url, tmp_path):
    thread_id, log = new_thread(), tmp_path / "log"
    with AgentkitSaver.from_conn_string(url) as saver:
        process = worker(url, thread_id, 0.5, log, 0.3)
        try:
            until(lambda: len(list(saver.list(config(thread_id)))) >= 3)
            os.kill(process.pid, signal.SIGSTOP)
            graph = counting_graph(saver)
            with saver.turn(thread_id, input=INPUT, key="key", timeout=SECONDS) as turn:
                assert not turn.done and turn.epoch > 1
                turn.result = graph.invoke(turn.input, turn.config)
            before = [found.config for found in saver.list(config(thread_id))]
            os.kill(process.pid, signal.SIGCONT)
            assert process.communicate(timeout=SECONDS)[0] == "fenced\n"
        finally:
            process.kill()
            process.wait(SECONDS)
        assert [found.config for found in saver.list(config(thread_id))] == before
        assert saver.get_tuple(config(thread_id)).checkpoint["channel_values"]["seen"] == WHOLE


async def test_a_worker_runs_what_waits(url):
    async with AgentkitSaver.from_conn_string(url) as saver:
        graph, stop = counting_graph(saver), asyncio.Event()
        threads = [new_thread() for _ in range(12)]
        for thread_id in threads:
            left = saver.turn(thread_id, input=INPUT, key="key")
            await left.__aenter__()
            del left
        gc.collect()
        working = asyncio.create_task(run_worker(graph, concurrency=3, poll=0.05, stop=stop))
        for thread_id in threads:
            async with saver.turn(thread_id, key="key", timeout=SECONDS) as turn:
                if not turn.done:
                    turn.result = await graph.ainvoke(turn.input, turn.config)
            assert turn.result == {"seen": WHOLE}
        stop.set()
        await asyncio.wait_for(working, SECONDS)
