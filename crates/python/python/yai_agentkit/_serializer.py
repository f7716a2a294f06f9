from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Iterable
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import isclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

from langgraph.checkpoint.serde._msgpack import STRICT_MSGPACK_ENABLED
from langgraph.checkpoint.serde.jsonplus import (
    JsonPlusSerializer,
    _create_msgpack_ext_hook,
    _normalize_module_keys,
)
from langgraph.store.base import Item

_PLAIN = (
    *(set, frozenset, deque, Decimal, UUID, date, time, timedelta, Path, Item),
    *(IPv4Address, IPv4Network, IPv6Address, IPv6Network),
)
_PYDANTIC = {
    *(("pydantic.main", "BaseModel"), ("pydantic.v1.main", "BaseModel")),
    *(("pydantic.types", "SecretStr"), ("pydantic.types", "SecretBytes")),
}


class DataSerializer(JsonPlusSerializer):
    """LangGraph's serializer, which makes nothing of what it reads but data.

    A stored value names what is to be called to make it again. LangGraph's serializer imports and
    calls whatever stands there, `os.system` too, so that whoever writes to the database runs code
    in the program. This one calls what LangGraph holds safe, the classes of data that the program
    itself has loaded (pydantic's models, dataclasses, enums, named tuples), and what it is allowed
    by name; of all else it gives the arguments, as LangGraph's strict mode does.
    `LANGGRAPH_STRICT_MSGPACK=true` leaves out the program's own, as it does with LangGraph's.
    """

    def __init__(self, named: Iterable[tuple[str, ...]] = ()) -> None:
        self._named = frozenset(named)
        super().__init__(__unpack_ext_hook__=_create_msgpack_ext_hook(_DataTypes(self._named)))

    def with_msgpack_allowlist(
        self, extra_allowlist: Iterable[tuple[str, ...] | type]
    ) -> DataSerializer:
        """One that makes these too."""
        return type(self)(self._named | _normalize_module_keys(tuple(extra_allowlist)))


class _DataTypes(set[tuple[str, ...]]):
    """The types, by module and name, that are allowed by name or are data."""

    def __contains__(self, key: object) -> bool:
        if super().__contains__(key):
            return True
        match key:
            case str(module), str(name):
                return not STRICT_MSGPACK_ENABLED and _is_data(module, name)
        return False


def _is_data(module: str, name: str) -> bool:
    # Neither imports a module, nor lets one import another for an attribute.
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if not isclass(found) or found.__module__ != module:
        return False
    if issubclass(found, Enum) or (issubclass(found, tuple) and hasattr(found, "_fields")):
        return True
    # Of Python's own, LangGraph has listed what is safe.
    if module.partition(".")[0] in sys.stdlib_module_names:
        return False
    bases = {(base.__module__, base.__name__) for base in found.__mro__}
    is_plain = issubclass(found, _PLAIN) or dataclasses.is_dataclass(found)
    return is_plain or not bases.isdisjoint(_PYDANTIC)
