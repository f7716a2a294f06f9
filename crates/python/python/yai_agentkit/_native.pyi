"""The native half: it moves bytes, `AgentkitSaver` says what they mean."""

from collections.abc import Generator, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar, final

__all__ = ["Call", "ConflictError", "Engine", "NotFoundError", "StorageError"]

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

class NotFoundError(LookupError):
    """What was asked for does not exist."""

class ConflictError(Exception):
    """The write contradicts what is stored."""

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
        checkpoint: str,
        metadata: str,
        values: Sequence[tuple[str, str | int | float, str, _Bytes]],
    ) -> Call[None]: ...
    def put_writes(
        self,
        place: _Place,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[str, str, _Bytes]],
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
