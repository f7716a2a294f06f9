from __future__ import annotations

import json
import re

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which is no text."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(name: str, value: object) -> str:
    """`value` as JSON that every database takes."""
    try:
        text = _ENCODER.encode(value)
    except ValueError as error:
        raise ValueError(f"{name}: can't be stored as JSON: {error}") from error
    # Half a character becomes a question mark, as in values.
    return SURROGATE.sub("?", text)
