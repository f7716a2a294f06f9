from __future__ import annotations

import builtins
import json
import math
import os
import random
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from yai_agentkit._config import config_of, configurable, selector
from yai_agentkit._conversations import Conversations
from yai_agentkit._filter import Selected
from yai_agentkit._json import SURROGATE, encoded
from yai_agentkit._native import Engine
from yai_agentkit._serializer import DataSerializer
from yai_agentkit._turns import TURN, Turn, turn_of
from yai_agentkit._wait import wait

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from typing_extensions import Self

    from yai_agentkit._native import Call, _Place, _Stored, _Write


class Thread(NamedTuple):
    """A thread: one execution history."""

    id: str
    """Its id."""
    parent_id: str | None
    """The thread that it was copied from."""
    updated_at: datetime
    """When it was last written to."""


class AgentkitSaver(BaseCheckpointSaver[str]):
    """A LangGraph checkpoint saver on PostgreSQL or SQLite.

    It keeps its checkpoints in the tables of `langgraph-checkpoint-postgres`: each reads what the
    other wrote. One saver serves sync and async code, from any number of threads and event loops
    at once. It connects at the first call and brings the tables up to date then, unless its
    configuration says otherwise.

    ```python
    from yai_agentkit import AgentkitSaver

    with AgentkitSaver.from_conn_string("sqlite::memory:") as checkpointer:
        graph = builder.compile(checkpointer=checkpointer)
        graph.invoke({"messages": ["hi"]}, {"configurable": {"thread_id": "1"}})
    ```

    `with` and `async with` connect at once and close at the end; without them call `close()`.

    Every method raises `ValueError` for input or a configuration to mend, `ConnectionError` where
    trying again can help, `LookupError` for what does not exist, `ConflictError` for what exists
    already, and `StorageError` for every other failure of the storage. A failing storage never
    looks like an empty one.
    """

    _stores_all_apart = False
    """Whether what is inline is stored apart too."""

    def __init__(self, engine: Engine, *, serde: SerializerProtocol | None = None) -> None:
        """For `from_conn_string` and `from_config`."""
        super().__init__(serde=serde or DataSerializer())
        self._engine = engine
        self._turns = engine.turns()
        self.conversations = Conversations(engine.conversations())
        """What is said in the threads that have turns."""

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        pipeline: bool = False,
        serde: SerializerProtocol | None = None,
    ) -> Self:
        """A saver for one database.

        Args:
            conn_string: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE` or `host=… dbname=…`, as
                libpq reads them, `sqlite:FILE` (`sqlite:///` before an absolute path), a path that
                ends in `.db` or `.sqlite`, `sqlite::memory:` or `:memory:`.
            pipeline: Accepted for the sake of LangGraph's savers. One call is one round trip anyway.
            serde: How values become bytes. By default as LangGraph's `JsonPlusSerializer` does it,
                but nothing that is read becomes a call to anything but a class of data that the
                program has loaded. `JsonPlusSerializer(allowed_msgpack_modules=True)` calls
                whatever a row says: only for a database that nobody else writes to.

        Raises:
            ValueError: If it can't be read.
        """
        return cls(Engine({}, conn_string=conn_string), serde=serde)

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        serde: SerializerProtocol | None = None,
    ) -> Self:
        """A saver for AgentKit's configuration: the environment over the file over the defaults.

        Args:
            path: A TOML file with a table `[database]`: `url`, `max_connections`, `schema`, …
            environ: The environment, `os.environ` by default: `DATABASE_URL`,
                `DB_MAX_CONNECTIONS`, `DB_SCHEMA`, …
            serde: How values become bytes; see `from_conn_string`.

        Raises:
            ValueError: If a setting is not allowed; it says what is.
        """
        toml = None if path is None else Path(path).read_text(encoding="utf-8")
        return cls(Engine(dict(os.environ if environ is None else environ), toml), serde=serde)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.display_url!r})"

    def __enter__(self) -> Self:
        wait(self._engine.connect())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._engine.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Wait for what is under way, then close the connections. A second time does nothing."""
        wait(self._engine.close())

    async def aclose(self) -> None:
        """Wait for what is under way, then close the connections. A second time does nothing."""
        await self._engine.close()

    def setup(self) -> _Done:
        """Bring the tables up to date.

        The first call of any method does so too, unless `DB_GENERATE_SCHEMAS` is off. What is
        returned may be awaited, as with LangGraph's async savers: the work is done by then.
        """
        wait(self._engine.setup())
        return _Done()

    async def asetup(self) -> None:
        """Bring the tables up to date. See `setup`."""
        await self._engine.setup()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the thread's latest; `None` if there is none."""
        stored = wait(self._get(config))
        return None if stored is None else self._load(stored)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the thread's latest; `None` if there is none."""
        stored = await self._get(config)
        return None if stored is None else self._load(stored)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints that match, newest first.

        Args:
            config: Of this thread, and where it has them this namespace and this checkpoint.
                `None` is all threads.
            filter: Whose metadata contain this, as PostgreSQL's `@>` says, on SQLite too. A key with
                dots is that key, or the path that LangGraph's SQLite saver takes it for.
            before: Older than this one.
            limit: So many at most.
        """
        selected = Selected(filter, limit)
        found = [wait(call) for call in self._list(config, selected, before)]
        for stored in selected.of(found):
            yield self._load(stored)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints that match, newest first. See `list`."""
        selected = Selected(filter, limit)
        found = [await call for call in self._list(config, selected, before)]
        for stored in selected.of(found):
            yield self._load(stored)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint and the values of its new versions; return where it is."""
        place, call = self._put(config, checkpoint, metadata, new_versions)
        wait(call)
        return _written(config, place)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint and the values of its new versions; return where it is."""
        place, call = self._put(config, checkpoint, metadata, new_versions)
        await call
        return _written(config, place)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, as pending writes of the checkpoint that it started from."""
        wait(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, as pending writes of the checkpoint that it started from."""
        await self._put_writes(config, writes, task_id, task_path)

    def delete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread. One that does not exist is no error."""
        wait(self._engine.delete_thread(str(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread. One that does not exist is no error."""
        await self._engine.delete_thread(str(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what the runs made, save what a remaining checkpoint needs to read back."""
        wait(self._engine.delete_for_runs(_ids("run_ids", run_ids)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what the runs made, save what a remaining checkpoint needs to read back."""
        await self._engine.delete_for_runs(_ids("run_ids", run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy everything of a thread to a new one. Of a thread that has never run that is nothing.

        Raises:
            ConflictError: If the target exists.
        """
        wait(self._engine.copy_thread(str(source_thread_id), str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy everything of a thread to a new one. See `copy_thread`."""
        await self._engine.copy_thread(str(source_thread_id), str(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete of each thread what `strategy` does not keep.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"` keeps the latest checkpoint of each namespace, with all that
                it needs to read back unchanged, delta channels included; `"delete"`, which is
                `"delete_all"` too, keeps nothing.
        """
        wait(self._prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete of each thread what `strategy` does not keep. See `prune`."""
        await self._prune(thread_ids, strategy)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each channel its nearest stored value among the ancestors, and the writes since."""
        found = wait(self._delta_channel_history(config, channels))
        return self._load_histories(channels, found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each channel its nearest stored value among the ancestors, and the writes since."""
        found = await self._delta_channel_history(config, channels)
        return self._load_histories(channels, found)

    def turn(
        self,
        thread_id: str,
        *,
        input: Any = None,
        key: str | None = None,
        message: str | None = None,
        on_busy: Literal["reject", "enqueue", "interrupt", "rollback"] = "reject",
        lease: float = 30.0,
        timeout: float | None = None,
    ) -> Turn:
        """One turn of a thread, for `with` or `async with`: what is run in it has the thread alone.

        ```python
        async with saver.turn(thread_id, input={"messages": ["hi"]}, key=request_id) as turn:
            if not turn.done:
                turn.result = await graph.ainvoke(turn.input, turn.config)
        ```

        Args:
            thread_id: The thread, a UUID: its conversation has the same id, and is made where
                there is none.
            input: What the graph is to be called with, kept with the turn until it ends.
            key: Of equal keys in one thread the first opens the turn. The others wait for its
                result, or go on with it where its worker has died.
            message: What the person says: a message of the conversation, stored with the turn.
            on_busy: What becomes of the turn where another one has not ended: it is refused with
                `Busy`, it waits, it cancels the other, or it takes back what the other has done.
            lease: For how many seconds the turn is this process's when it no longer renews: when
                it is stopped or has lost the database. One that has died is known sooner.
            timeout: For how many seconds to wait, before `Busy`.
        """
        turn = Turn(self, str(thread_id), lease, timeout)
        stored = self.serde.dumps_typed(input)
        turn._request = (turn.thread_id, key, stored, message, on_busy, lease)
        return turn

    def due(self, *, limit: int = 10, lease: float = 30.0) -> builtins.list[Turn]:
        """Turns that wait for somebody: their worker has died, or those before them have ended.

        Enter one to go on with it: `Busy` is raised where somebody else was faster and `timeout`
        has passed, and it is `done` where it has ended meanwhile.
        """
        return [self._due(lease, *found) for found in wait(self._turns.due(limit))]

    async def adue(self, *, limit: int = 10, lease: float = 30.0) -> builtins.list[Turn]:
        """Turns that wait for somebody. See `due`."""
        return [self._due(lease, *found) for found in await self._turns.due(limit)]

    def threads(self, *, limit: int = 100, after: Thread | None = None) -> builtins.list[Thread]:
        """The threads, the last written first.

        Args:
            limit: So many at most.
            after: The last one of the page before.
        """
        return [_thread(*found) for found in wait(self._threads(limit, after))]

    async def athreads(
        self, *, limit: int = 100, after: Thread | None = None
    ) -> builtins.list[Thread]:
        """The threads, the last written first. See `threads`."""
        return [_thread(*found) for found in await self._threads(limit, after)]

    def get_next_version(self, current: str | int | float | None, channel: None) -> Any:
        """The version after `current`: a count, and a random part against clashes.

        It is text, as with LangGraph's PostgreSQL savers. After a number it is a number: in a
        thread that LangGraph.js began, versions must stay comparable.
        """
        if current is not None and not isinstance(current, str):
            return _number_after(current)
        count = 0 if current is None else int(current.split(".")[0])
        return f"{count + 1:032}.{random.random():016}"

    def _due(self, lease: float, thread_id: str, conversation_id: str, turn_id: str) -> Turn:
        turn = Turn(self, thread_id, lease, 0)
        turn._place = (conversation_id, turn_id)
        return turn

    def _metadata(self, metadata: Mapping[str, Any] | None) -> str | None:
        return None if metadata is None else encoded("metadata", metadata)

    def _get(self, config: RunnableConfig) -> Call[_Stored | None]:
        thread_id, namespace, checkpoint_id = selector(config)
        return self._engine.get(thread_id, namespace or "", checkpoint_id)

    def _list(
        self, config: RunnableConfig | None, selected: Selected, before: RunnableConfig | None
    ) -> builtins.list[Call[builtins.list[_Stored]]]:
        place = selector(config) if config else (None, None, None)
        before_id = configurable(before).get("checkpoint_id") if before else None
        return [
            self._engine.query((*place, pattern, before_id, selected.limit))
            for pattern in selected.patterns
        ]

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[_Place, Call[None]]:
        thread_id, namespace, parent = selector(config)
        place = (thread_id, namespace or "", checkpoint["id"])
        inline: dict[str, Any] = {}
        values = []
        for channel, value in checkpoint["channel_values"].items():
            if _is_inline(value):
                inline[channel] = value
                if not self._stores_all_apart:
                    continue
            if isinstance(value, _DeltaSnapshot):
                inline[channel] = True
            if channel in new_versions:
                dumped = self.serde.dumps_typed(value)
                values.append((channel, new_versions[channel], *dumped))
        described = get_serializable_checkpoint_metadata(config, metadata)
        turn = turn_of(config)
        if turn is not None:
            described["run_id"] = turn.id
        texts = (
            encoded("checkpoint", {**checkpoint, "channel_values": inline}),
            encoded("metadata", described),
        )
        call = self._engine.put(
            place,
            parent,
            texts,
            values,
            _epoch(turn, thread_id),
        )
        return place, call

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Call[None]:
        thread_id, namespace, checkpoint_id = selector(config)
        if checkpoint_id is None:
            raise ValueError(
                "config: put_writes needs configurable.checkpoint_id, as put returned it"
            )
        dumped = [(channel, *self.serde.dumps_typed(value)) for channel, value in writes]
        place = (thread_id, namespace or "", checkpoint_id)
        epoch = _epoch(turn_of(config), thread_id)
        return self._engine.put_writes(place, task_id, task_path, dumped, epoch)

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Call[None]:
        # LangGraph's Agent Server calls it `delete_all`.
        if strategy not in ("keep_latest", "delete", "delete_all"):
            raise ValueError(f"strategy: must be 'keep_latest' or 'delete', is {strategy!r}")
        return self._engine.prune(_ids("thread_ids", thread_ids), strategy == "keep_latest")

    def _delta_channel_history(self, config: RunnableConfig, channels: Sequence[str]) -> Call[Any]:
        thread_id, namespace, checkpoint_id = selector(config)
        return self._engine.delta_channel_history(
            thread_id, namespace or "", checkpoint_id, _ids("channels", channels)
        )

    def _threads(
        self, limit: int, after: Thread | None
    ) -> Call[builtins.list[tuple[str, str | None, str]]]:
        if limit < 0:
            raise ValueError(f"limit: must not be negative, is {limit}")
        cursor = None if after is None else (after.updated_at.isoformat(), after.id)
        return self._engine.threads(limit, cursor)

    def _load(self, stored: _Stored) -> CheckpointTuple:
        thread_id, namespace, checkpoint_id, parent, text, metadata, values, writes, sends = stored
        checkpoint: Checkpoint = json.loads(text)
        channel_values = checkpoint.get("channel_values") or {}
        checkpoint["channel_values"] = channel_values
        for channel, type_tag, data in values:
            channel_values[channel] = self.serde.loads_typed((type_tag, data))
        if sends:
            # As LangGraph does it: before v4 the sends stood among the parent's writes.
            channel_values[TASKS] = [self.serde.loads_typed(send) for send in sends]
            versions = checkpoint["channel_versions"]
            versions[TASKS] = (
                max(versions.values()) if versions else self.get_next_version(None, None)
            )
        return CheckpointTuple(
            config_of(thread_id, namespace, checkpoint_id),
            checkpoint,
            json.loads(metadata),
            config_of(thread_id, namespace, parent) if parent else None,
            self._load_writes(writes),
        )

    def _load_writes(self, writes: builtins.list[_Write]) -> builtins.list[PendingWrite]:
        return [
            (task_id, channel, self.serde.loads_typed((type_tag, data)))
            for task_id, channel, type_tag, data in writes
        ]

    def _load_histories(
        self, channels: Sequence[str], found: Mapping[str, Any]
    ) -> dict[str, DeltaChannelHistory]:
        histories: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            inline, stored, writes = found[channel]
            history = DeltaChannelHistory(writes=self._load_writes(writes))
            if stored is not None:
                history["seed"] = self.serde.loads_typed(stored)
            elif inline is not None:
                history["seed"] = json.loads(inline)
            histories[channel] = history
        return histories


class _Done:
    """What `setup` returns: done, and awaitable for those who come from an async saver."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


def _is_inline(value: object) -> bool:
    """Whether a value stays within the checkpoint's JSON, as in LangGraph's PostgreSQL saver.

    What JSON, or PostgreSQL's, would refuse or change (it writes a float from 1e16 on as an integer
    of other digits) is stored apart, from where that saver reads it back too.
    """
    if isinstance(value, Enum):
        return False
    if isinstance(value, str):
        return "\0" not in value and not SURROGATE.search(value)
    if isinstance(value, float):
        return abs(value) < 1e16 and (value != 0 or math.copysign(1, value) > 0)
    return value is None or isinstance(value, (bool, int))


def _number_after(version: float) -> float:
    # With as many digits as every database keeps of a float.
    return round(int(version) + 1 + random.random(), 9)


def _written(config: RunnableConfig, place: _Place) -> RunnableConfig:
    """Where it was written, for who goes on from there."""
    written = config_of(*place)
    if (turn := turn_of(config)) is not None:
        written["configurable"][TURN] = turn
    return written


def _epoch(turn: Turn | None, thread_id: str) -> int | None:
    """What a write asks of its thread."""
    return turn.epoch if turn is not None and turn.thread_id == thread_id else None


def _ids(name: str, ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError(f"{name}: must be a sequence of strings, not one string")
    return [str(id) for id in ids]


def _thread(id: str, parent_id: str | None, updated_at: str) -> Thread:
    return Thread(id, parent_id, datetime.fromisoformat(updated_at))
