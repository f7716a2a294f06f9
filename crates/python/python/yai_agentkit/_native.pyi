"""The native half: it moves bytes, `AgentkitSaver` says what they mean."""

import builtins
from collections.abc import Generator, Mapping, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar, final

__all__ = [
    "Call",
    "ConflictError",
    "Conversations",
    "Engine",
    "Fenced",
    "NotFoundError",
    "OwnedTurn",
    "StorageError",
    "Store",
    "Turns",
]

_T = TypeVar("_T", covariant=True)

_Bytes: TypeAlias = bytes | bytearray
_Place: TypeAlias = tuple[str, str, str]  # thread_id, checkpoint_ns, checkpoint_id
_Value: TypeAlias = tuple[str, bytes]  # type, bytes
_Write: TypeAlias = tuple[str, str, str, bytes]  # task_id, channel, type, bytes

_Stored: TypeAlias = tuple[
    str,  # thread_id
    str,  # checkpoint_ns
    str,  # checkpoint_id
    str | None,  # the parent's checkpoint_id
    str,  # the checkpoint as JSON, with its inline values
    str,  # the metadata as JSON
    list[tuple[str, str, bytes]],  # the other values: channel, type, bytes
    list[_Write],  # the pending writes, in order
    list[_Value],  # the sends among the parent's writes, for a checkpoint before v4
]

# id, thread_id, title, metadata as JSON, created_at, updated_at
_Conversation: TypeAlias = tuple[str, str, str | None, str | None, str, str]
# id, role, content, metadata as JSON, created_at
_Message: TypeAlias = tuple[str, str, str, str | None, str]

# thread_id, key, the input, what the person says, on_busy, the lease in seconds
_Request: TypeAlias = tuple[str, str | None, tuple[str, _Bytes], str | None, str, float]

_Found: TypeAlias = (
    tuple[Literal["owned"], OwnedTurn]
    | tuple[Literal["busy"]]
    | tuple[Literal["waits"], str, str]  # conversation_id, turn_id
    # conversation_id, turn_id, status, error, result
    | tuple[Literal["ended"], str, str, str, str | None, _Value | None]
)

class NotFoundError(LookupError):
    """What was asked for does not exist."""

class ConflictError(Exception):
    """The write contradicts what is stored."""

class Fenced(ConflictError):
    """The thread has passed to another owner: nothing was written, and this turn is over here."""

class StorageError(RuntimeError):
    """The storage failed in a way that trying again won't mend; `__cause__` says how."""

@final
class Call(Generic[_T]):
    """One operation on the storage, to be started by `wait()` or by `await`, once.

    Once started it runs to its end, whoever stops waiting: a cancelled write happens whole or not
    at all, and its connection goes back to the pool.
    """

    def wait(self) -> _T:
        """Blocks until the result is there. Other threads run meanwhile."""

    def __await__(self) -> Generator[object, None, _T]: ...

@final
class Engine:
    """The checkpoints of one database. It connects, and migrates, at the first call."""

    def __new__(
        cls,
        variables: Mapping[str, str],
        toml: str | None = None,
        conn_string: str | None = None,
    ) -> Engine: ...
    @property
    def display_url(self) -> str:
        """The URL without its password."""

    def turns(self) -> Turns:
        """The turns in these threads, for one who owns them."""

    def conversations(self) -> Conversations:
        """The conversations of these threads."""

    def store(self, index: tuple[int, str, str, str, int, int] | None) -> Store:
        """What these threads share."""

    def connect(self) -> Call[None]: ...
    def setup(self) -> Call[None]: ...
    def close(self) -> Call[None]: ...
    def get(
        self, thread_id: str, checkpoint_ns: str, checkpoint_id: str | None
    ) -> Call[_Stored | None]: ...
    def query(
        self,
        selection: tuple[
            str | None,  # thread_id
            str | None,  # checkpoint_ns
            str | None,  # checkpoint_id
            str | None,  # what the metadata contain, as JSON
            str | None,  # only before this checkpoint_id
            int | None,  # how many at most
        ],
    ) -> Call[list[_Stored]]: ...
    def put(
        self,
        place: _Place,
        parent: str | None,
        texts: tuple[str, str],  # the checkpoint and its metadata as JSON
        values: Sequence[tuple[str, str | int | float, str, _Bytes]],
        epoch: int | None,
    ) -> Call[None]: ...
    def put_writes(
        self,
        place: _Place,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[str, str, _Bytes]],
        epoch: int | None,
    ) -> Call[None]: ...
    def delete_thread(self, thread_id: str) -> Call[None]: ...
    def delete_for_runs(self, run_ids: Sequence[str]) -> Call[None]: ...
    def copy_thread(self, source: str, target: str) -> Call[None]: ...
    def prune(self, thread_ids: Sequence[str], keep_latest: bool) -> Call[None]: ...
    def delta_channel_history(
        self,
        thread_id: str,
        checkpoint_ns: str,
        checkpoint_id: str | None,
        channels: Sequence[str],
    ) -> Call[dict[str, tuple[str | None, _Value | None, list[_Write]]]]: ...
    def threads(
        self, limit: int, after: tuple[str, str] | None
    ) -> Call[list[tuple[str, str | None, str]]]: ...

# namespace, key, the value as JSON, created_at and updated_at in microseconds
_Item: TypeAlias = tuple[tuple[str, ...], str, str, int, int, float | None]

@final
class Store:
    """The items of one saver's database."""

    def batch(
        self, operations: Sequence[tuple[object, ...]]
    ) -> Call[list[None | _Item | list[_Item] | list[tuple[str, ...]]]]:
        """Carries out operations, each a tuple that begins with its name:
        `("get", namespace, key, renews)`, `("put", namespace, key, value, minutes, vectors)`,
        `("delete", namespace, key)`, `("search", prefix, filter, limit, offset, renews, text, vector, distance)`,
        `("namespaces", patterns, max_depth, limit, offset)`."""

    def sweep(self) -> Call[int]:
        """Deletes what has outlived its time."""

@final
class Turns:
    """The turns of one saver. While any is under way their leases are renewed, without Python's
    lock."""

    def open(self, request: _Request) -> Call[_Found]:
        """Opens a turn, or finds what its key has led to."""

    def look(
        self, thread_id: str, conversation_id: str, turn_id: str, lease: float
    ) -> Call[_Found]:
        """What has become of a turn, which is owned from now on if nobody else has it."""

    def due(self, limit: int) -> Call[list[tuple[str, str, str]]]:
        """The turns that wait for somebody: (thread_id, conversation_id, turn_id) of each."""

@final
class OwnedTurn:
    """A turn that this process runs. Where it is dropped before it ends, it is given back."""

    @property
    def id(self) -> str: ...
    @property
    def conversation_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def is_taken_in(self) -> bool:
        """Whether a checkpoint knows its input."""

    @property
    def is_lost(self) -> bool:
        """Whether it was seen to be somebody else's."""

    @property
    def input(self) -> _Value | None: ...
    def close(
        self,
        status: str,
        error: str | None,
        messages: Sequence[tuple[str, str, str | None]],
        result: tuple[str, _Bytes] | None,
    ) -> Call[None]:
        """Ends it, with what was said in it and what it has come to."""

    def give_back(self) -> Call[None]:
        """Lets somebody else go on with it at once."""

    def record(
        self, name: str, recorded: tuple[str, _Bytes] | None
    ) -> Call[tuple[bool, _Value | None]]:
        """Records something under a name, unless it is there; returns what was there before."""

@final
class Conversations:
    """The conversations of one saver's database."""

    def create(
        self, title: str | None, metadata: str | None, thread_id: str | None
    ) -> Call[_Conversation]: ...
    def get(self, conversation_id: str) -> Call[_Conversation | None]: ...
    def list(self, limit: int, after: str | None) -> Call[builtins.list[_Conversation]]:
        """The newest first, behind `after`, an id."""

    def messages(
        self, conversation_id: str, limit: int, after: str | None
    ) -> Call[builtins.list[_Message]]:
        """The oldest first, behind `after`, an id."""

    def fork(self, conversation_id: str) -> Call[_Conversation]:
        """A new conversation with copies of the thread and the messages."""

    def delete(self, conversation_id: str) -> Call[None]:
        """Deletes it with its thread, unless a turn runs in it."""
