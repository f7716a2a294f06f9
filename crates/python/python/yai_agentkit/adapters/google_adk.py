"""Sessions and memory of Google's Agent Development Kit (`pip install google-adk`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.memory.base_memory_service import BaseMemoryService, SearchMemoryResponse
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.sessions.base_session_service import (
    BaseSessionService,
    GetSessionConfig,
    ListSessionsResponse,
)
from google.adk.sessions.session import Session
from google.adk.sessions.state import State
from langgraph.store.base import GetOp, Item, Op, PutOp, SearchItem, SearchOp
from pydantic_core import to_jsonable_python
from typing_extensions import override

from yai_agentkit._store import AgentkitStore
from yai_agentkit.adapters._log import ALL, Log, batch, deleting, entries, label

_ROOT = "google adk"
_PREFIXES = {"app": State.APP_PREFIX, "user": State.USER_PREFIX, "session": ""}


class AgentkitSessionService(BaseSessionService):
    """Sessions with their events and states, in a store.

    ```python
    runner = Runner(agent=agent, app_name="app", session_service=AgentkitSessionService(store))
    ```

    An event is stored with what it changes of the states, all or nothing. Each key of a state is a row of
    its own, so that sessions of one user or app that change others do not undo each other.
    """

    def __init__(self, store: AgentkitStore) -> None:
        """The sessions in this store."""
        self._store = store

    @override
    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Make a session. One of this id that is there already is an `AlreadyExistsError`."""
        given = session_id.strip() if session_id else None
        place = _Place(app_name, user_id, given or str(uuid.uuid4()))
        [found] = await batch(self._store, [place.getting()])
        if found is not None:
            raise AlreadyExistsError(f"Session with id {place.session} already exists.")
        changes = place.changing(state or {})
        await batch(self._store, [place.touching(time.time()), *changes])
        session = await self.get_session(
            app_name=app_name, user_id=user_id, session_id=place.session
        )
        if session is None:
            raise SessionNotFoundError(f"Session {place.session} not found.")
        return session

    @override
    async def get_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        config: GetSessionConfig | None = None,
    ) -> Session | None:
        """A session with its events, or the last of them; `None` where there is none."""
        place = _Place(app_name, user_id, session_id.strip())
        reading = place.log(self._store).reading(config.num_recent_events if config else None)
        found, events, *states = await batch(
            self._store, [place.getting(), reading, *place.states()]
        )
        if found is None:
            return None
        read = [Event.model_validate(event) for event in entries(events)]
        if config and config.after_timestamp is not None:
            before = [n for n, event in enumerate(read) if event.timestamp < config.after_timestamp]
            read = read[before[-1] + 1 :] if before else read
        return place.session_of(found, _merged(states), read)

    @override
    async def list_sessions(
        self, *, app_name: str, user_id: str | None = None
    ) -> ListSessionsResponse:
        """The sessions of a user, or of all, without their events: the least recent first."""
        users = () if user_id is None else (label(user_id),)
        root = (_ROOT, label(app_name))
        searched = [(*root, "sessions", *users), (*root, "session", *users), (*root, "user", *users)]
        searches: list[Op] = [SearchOp(prefix, limit=ALL) for prefix in searched]
        app = SearchOp((*root, "app"), limit=ALL)
        found, of_sessions, of_users, of_app = await batch(self._store, [*searches, app])
        sessions = []
        for item in found:
            place = _Place(app_name, item.value["user_id"], item.value["id"])
            own = [state for state in of_sessions if state.namespace == place.namespace("session")]
            of_user = [state for state in of_users if state.namespace == place.namespace("user")]
            sessions.append(place.session_of(item, _merged([of_app, of_user, own]), []))
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    @override
    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events and its state. One that is not there is no error."""
        place = _Place(app_name, user_id, session_id.strip())
        searches: list[Op] = [
            SearchOp(place.namespace(kind), limit=ALL) for kind in ("events", "sent", "session")
        ]
        found = await batch(self._store, searches)
        gone = PutOp(place.namespace("sessions"), place.session, None)
        await batch(self._store, [gone, *(op for items in found for op in deleting(items))])

    @override
    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """What the sessions of a user share."""
        _, of_user, _ = _Place(app_name, user_id, "").states()
        [found] = await batch(self._store, [of_user])
        return {item.value["key"]: item.value["value"] for item in found}

    @override
    async def append_event(self, session: Session, event: Event) -> Event:
        """Store an event and what it changes. The same one again does nothing."""
        if event.partial:
            return event
        place = _Place(session.app_name, session.user_id, session.id)
        sent = _dumped(event)
        known = GetOp(place.namespace("sent"), event.id)
        found, before = await batch(self._store, [place.getting(), known])
        if found is None:
            raise SessionNotFoundError(f"Session {session.id} not found.")
        if before is not None and before.value == {"event": sent}:
            return event
        await super().append_event(session, event)
        session.last_update_time = event.timestamp
        await batch(
            self._store,
            [
                *place.log(self._store).appending([_dumped(event)]),
                PutOp(place.namespace("sent"), event.id, {"event": sent}, index=False),
                *place.changing(event.actions.state_delta if event.actions else {}),
                place.touching(event.timestamp),
            ],
        )
        return event


class AgentkitMemoryService(BaseMemoryService):
    """What was said in sessions, found again by its words or its meaning, in a store with an index.

    ```python
    store = AgentkitStore.from_conn_string(url, index={"search": "text"})
    runner = Runner(
        agent=agent,
        app_name="app",
        session_service=AgentkitSessionService(store),
        memory_service=AgentkitMemoryService(store),
    )
    ```

    An event is one memory, by its id: added again it is the same one, and one that was deleted does not
    come back. Words are looked for in the names of those who spoke too.
    """

    def __init__(self, store: AgentkitStore) -> None:
        """The memories in this store. One without an index finds nothing, and is a `ValueError`."""
        if store.index_config is None:
            raise ValueError("store: needs an index to be searched by, as index={'search': 'text'}")
        self._store = store

    @override
    async def add_session_to_memory(self, session: Session) -> None:
        """Remember what a session has said until now."""
        await self.add_events_to_memory(
            app_name=session.app_name, user_id=session.user_id, events=session.events
        )

    @override
    async def add_events_to_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        events: Sequence[Event],
        session_id: str | None = None,
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Remember events, but those without content."""
        said = (event for event in events if event.content and event.content.parts)
        memories = [
            MemoryEntry(
                id=event.id,
                content=event.content,
                author=event.author,
                timestamp=datetime.fromtimestamp(event.timestamp).isoformat(),
            )
            for event in said
        ]
        await self.add_memory(
            app_name=app_name, user_id=user_id, memories=memories, custom_metadata=custom_metadata
        )

    @override
    async def add_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        memories: Sequence[MemoryEntry],
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Remember these, all or none. One without an id is a new one."""
        place, deleted = _memories("memory", app_name, user_id), _memories("gone", app_name, user_id)
        known = [(memory.id or str(uuid.uuid4()), memory) for memory in memories]
        gone = await batch(self._store, [GetOp(deleted, id) for id, _ in known])
        more = to_jsonable_python(dict(custom_metadata or {}))
        puts = []
        for (id, memory), is_gone in zip(known, gone, strict=True):
            if is_gone is None:
                row = memory.model_dump(mode="json", exclude_none=True)
                row["custom_metadata"] = more | row.get("custom_metadata", {})
                puts.append(PutOp(place, id, row, index=["content.parts[*].text"]))
        await batch(self._store, puts)

    @override
    async def search_memory(
        self, *, app_name: str, user_id: str, query: str
    ) -> SearchMemoryResponse:
        """The ten memories of a user that fit best."""
        if not query.strip():
            return SearchMemoryResponse()
        search = SearchOp(_memories("memory", app_name, user_id), query=query, limit=10)
        [found] = await batch(self._store, [search])
        memories = [MemoryEntry.model_validate(item.value | {"id": item.key}) for item in found]
        return SearchMemoryResponse(memories=memories)

    @override
    async def delete_memory(
        self, *, app_name: str, user_id: str, memory_id: str | None = None
    ) -> None:
        """Forget a memory for good. One that is not there is no error."""
        if memory_id:
            gone = PutOp(_memories("gone", app_name, user_id), memory_id, {}, index=False)
            memory = PutOp(_memories("memory", app_name, user_id), memory_id, None)
            await batch(self._store, [memory, gone])


def _memories(kind: str, app: str, user: str) -> tuple[str, ...]:
    return (_ROOT, label(app), kind, label(user))


class _Place:
    """Where one session is kept."""

    def __init__(self, app: str, user: str, session: str) -> None:
        self.app, self.user, self.session = app, user, session

    def namespace(self, kind: str) -> tuple[str, ...]:
        own = {"app": (), "user": (self.user,), "sessions": (self.user,)}
        names = own.get(kind, (self.user, self.session))
        return (_ROOT, label(self.app), kind, *map(label, names))

    def log(self, store: AgentkitStore) -> Log:
        return Log(store, _ROOT, self.app, "events", self.user, self.session)

    def getting(self) -> GetOp:
        return GetOp(self.namespace("sessions"), self.session)

    def touching(self, at: float) -> PutOp:
        row = {"id": self.session, "user_id": self.user, "updated_at": at}
        return PutOp(self.namespace("sessions"), self.session, row, index=False)

    def states(self) -> list[SearchOp]:
        return [SearchOp(self.namespace(kind), limit=ALL) for kind in _PREFIXES]

    def changing(self, state: dict[str, Any]) -> list[PutOp]:
        """What a change of the states stores, but what is temporary."""
        changes = []
        for key, value in state.items():
            if key.startswith(State.TEMP_PREFIX):
                continue
            shared = (kind for kind in ("app", "user") if key.startswith(_PREFIXES[kind]))
            kind = next(shared, "session")
            key = key.removeprefix(_PREFIXES[kind])
            row = {"key": key, "value": to_jsonable_python(value)}
            changes.append(PutOp(self.namespace(kind), key, row, index=False))
        return changes

    def session_of(self, item: Item, state: dict[str, Any], events: list[Event]) -> Session:
        return Session(
            id=self.session,
            app_name=self.app,
            user_id=self.user,
            state=state,
            events=events,
            last_update_time=item.value["updated_at"],
        )


def _dumped(event: Event) -> dict[str, Any]:
    return event.model_dump(mode="json", by_alias=True, exclude_none=True)


def _merged(states: Sequence[Sequence[SearchItem]]) -> dict[str, Any]:
    """One state of those of an app, a user and a session, as `_PREFIXES` has them in order."""
    return {
        prefix + item.value["key"]: item.value["value"]
        for prefix, items in zip(_PREFIXES.values(), states, strict=True)
        for item in items
    }
