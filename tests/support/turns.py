"""
Look at the state of casts, whatever way they have come to it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from enum import Enum
from itertools import count

from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.server.cast_protocol import CastProtocol


def state(thing: object) -> object:
    """Return all that an object holds, as plain values; an object that was met before is named by its number."""
    seen: dict[int, int] = {}

    def plain(value: object) -> object:
        if value is None or isinstance(value, int | float | str | range | Enum | type(count())):
            return repr(value)
        if isinstance(value, Mapping):
            return [(plain(key), plain(each)) for key, each in value.items()]
        if isinstance(value, tuple | list | deque):
            return [plain(each) for each in value]
        if type(value).__module__.startswith("castd") and not isinstance(value, RetransmitPolicy):
            if id(value) in seen:
                return f"object {seen[id(value)]}"
            seen[id(value)] = len(seen)
            names = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
            names |= set(getattr(value, "__dict__", ()))
            held = {name: plain(getattr(value, name)) for name in sorted(names) if hasattr(value, name)}
            return type(value).__name__, held
        return repr(value)

    return plain(thing)


def toldTurn(cast: CastProtocol) -> Turn:
    """
    Return what the cast of a transfer would be if it were told now of what the fast path has sent.  The transfer goes
    on as it was.
    """
    turn = copy.deepcopy(cast._late).make() if cast._late is not None else copy.deepcopy(cast._turn)
    assert turn is not None
    if cast._steps and cast._terms is not None and cast._master is not None:
        turn.masterAnswered(cast._master.noted)
        turn.masterFollowed(range(cast._terms.start, cast._prepared.last(cast._steps, cast._end).stop), cast._steppedAt)
    elif cast._steps:
        turn.fastPathLeft(cast._prepared.last(cast._steps, cast._end), cast._steppedAt)
    return turn
