from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from yai_agentkit._json import encoded

if TYPE_CHECKING:
    from yai_agentkit._native import _Stored


class Selected:
    """The checkpoints that a filter takes: what of it has no place in 64 bits is looked for here."""

    def __init__(self, filter: Mapping[str, Any] | None, limit: int | None) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"limit: must not be negative, is {limit}")
        wholes = [encoded("filter", pattern) for pattern in _patterns(filter or {})]
        self.patterns = [
            encoded("filter", _within_64_bits(pattern)) for pattern in _patterns(filter or {})
        ]
        """What is to be asked: all that contain one of them."""
        self._wholes = None if wholes == self.patterns else [json.loads(whole) for whole in wholes]
        self._limit = limit
        self.limit = limit if self._wholes is None else None

    def of(self, found: Sequence[Sequence[_Stored]]) -> Iterable[_Stored]:
        """Those of what each pattern has found, newest first."""
        stored: Iterable[_Stored] = found[0]
        if len(found) > 1:
            by_place = {item[:3]: item for item in chain.from_iterable(found)}
            stored = sorted(by_place.values(), key=lambda item: item[2], reverse=True)
        if self._wholes is not None:
            stored = (item for item in stored if self._takes(json.loads(item[5])))
        return islice(stored, self._limit)

    def _takes(self, metadata: Any) -> bool:
        return any(_contains(metadata, whole) for whole in self._wholes or ())


def _patterns(filter: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The filter, and that with its dotted keys as paths."""
    if not any("." in key for key in filter):
        return [filter]
    nested: dict[str, Any] = {}
    for key, value in filter.items():
        *path, last = key.split(".")
        place: Any = nested
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                return [filter]
        if last in place:
            return [filter]
        place[last] = deepcopy(value)
    return [filter, nested]


def _within_64_bits(pattern: Any) -> Any:
    """The pattern without the integers that the storage would round."""

    def fits(value: object) -> bool:
        return not isinstance(value, int) or -(2**63) <= value < 2**64

    match pattern:
        case dict():
            return {key: _within_64_bits(value) for key, value in pattern.items() if fits(value)}
        case list() | tuple():
            return [_within_64_bits(value) for value in pattern if fits(value)]
    return pattern


def _contains(value: Any, pattern: Any) -> bool:
    """As PostgreSQL's `@>` says."""
    match value, pattern:
        case dict(), dict():
            return all(key in value and _contains(value[key], pattern[key]) for key in pattern)
        case list(), list():
            return all(any(_contains(item, wanted) for item in value) for wanted in pattern)
    return isinstance(value, bool) == isinstance(pattern, bool) and bool(value == pattern)
