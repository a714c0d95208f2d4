"""Free JSON that callers attach to people and galleries, within what can be kept and given out again."""

from __future__ import annotations

import json
from typing import Any, Final

MOST_BYTES: Final = 16_384
"""Of the free JSON of a person or a gallery."""

DEEPEST: Final = 32
"""Levels of its nesting."""


def storable(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value if it can be kept.

    Raises:
        ValueError: it is too large or too deep, or holds what JSON has not.
    """
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        level = [item for item in level if isinstance(item, (dict, list))]
    if level:
        raise ValueError(f"free JSON is nested at most {DEEPEST} deep")
    try:
        length = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except ValueError as error:
        raise ValueError("free JSON holds no NaN, no infinity and no half characters") from error
    if length > MOST_BYTES:
        raise ValueError(f"free JSON has at most {MOST_BYTES} bytes")
    return value
