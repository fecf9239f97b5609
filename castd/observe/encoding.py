"""
Encode long answers as JSON, some values at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from twisted.internet.defer import Deferred, execute

from castd.slices import Slices

#: The most values of JSON that are encoded in one step.
MOST_VALUES = 200


def encodeJson(value: object, slices: Slices) -> Deferred[str]:
    """Return the text that C{json.dumps} would return, at once if it is short; keys are texts."""
    if _isShort(value):
        return execute(json.dumps, value)
    pieces = list[str]()
    return slices.run(_encode(value, pieces)).addCallback(lambda _: "".join(pieces))


def _encode(value: object, pieces: list[str]) -> Iterator[None]:
    """Append the JSON of a value to these pieces, a short part in each step: C{iterencode} takes ten times as long."""
    if _isShort(value):
        pieces.append(json.dumps(value))
        yield None
    elif isinstance(value, dict):
        before = "{"
        for key, each in value.items():
            pieces.append(f"{before}{json.dumps(key)}: ")
            yield from _encode(each, pieces)
            before = ", "
        pieces.append("}")
    else:
        assert isinstance(value, list | tuple)
        before = "["
        for each in value:
            pieces.append(before)
            yield from _encode(each, pieces)
            before = ", "
        pieces.append("]")


def _isShort(value: object) -> bool:
    return _count(value, MOST_VALUES) <= MOST_VALUES


def _count(value: object, most: int) -> int:
    """Return how many values a value of JSON has in it, with itself; once there are more than C{most}, as many."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 1
    found = 1
    for each in value:
        found += _count(each, most - found)
        if found > most:
            break
    return found
