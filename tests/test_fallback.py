"""
Those who go on by unicast beside a group: looked at when something is due for them, and only then.
"""

from __future__ import annotations

from typing import Any

from castd.cast.events import RequestBlocks
from castd.server.fallback import Fallbacks

A, B, C = (("10.0.0.10", port) for port in (1, 2, 3))


class One:
    """In place of a delivery; C{dues} are its answers."""

    def __init__(self, *dues: float | None) -> None:
        self.due: float | None = None
        self.dues = list(dues)
        self.pumped: list[float] = []
        self.heard: list[Any] = []
        self.cast = self

    def pump(self, now: float) -> float | None:
        self.pumped.append(now)
        return self.dues.pop(0)

    def hear(self, *words: Any) -> None:
        self.heard.append(words)


def among(**ones: One) -> Any:
    asides: Any = Fallbacks()
    for peer, one in zip((A, B, C), ones.values(), strict=False):
        asides.add(peer, one, 0.0)
    return asides


def test_whenDue() -> None:
    """Each is pumped when it came and when it said; the earliest is told."""
    a, b = One(5.0, 8.0), One(3.0, None)
    asides = among(a=a, b=b)
    assert [asides.run(One.pump, now) for now in (0.0, 1.0, 3.0, 5.0)] == [3.0, 3.0, 5.0, 8.0]
    assert (a.pumped, b.pumped) == ([0.0, 5.0], [0.0, 3.0])


def test_heard() -> None:
    """Something that arrives is told to its cast, and makes it due; what was due before is forgotten."""
    a, b = One(5.0, 9.0), One(6.0)
    asides = among(a=a, b=b)
    asides.run(One.pump, 0.0)
    asides.hear(a, A, RequestBlocks(), 1.0)
    assert a.heard == [(A, RequestBlocks(), 1.0)]
    assert asides.run(One.pump, 1.0) == 6.0
    assert (a.pumped, b.pumped) == ([0.0, 1.0], [0.0])


def test_itsShare() -> None:
    """One that wants to go on at once does so the next time, when the others had their turn."""
    a, b = One(0.0, 0.0, None), One(None)
    asides = among(a=a, b=b)
    assert [asides.run(One.pump, 0.0) for _ in range(3)] == [0.0, 0.0, None]
    assert (len(a.pumped), len(b.pumped)) == (3, 1)


def test_gone() -> None:
    """Who is gone is not pumped any more, even if it goes while it is pumped."""
    a, b = One(1.0), One(1.0)
    asides = among(a=a, b=b)
    b.dues = [None]

    def pump(one: One, now: float) -> float | None:
        return asides.drop(B) if one is b else one.pump(now)  # type: ignore[func-returns-value]

    assert asides.run(pump, 0.0) == 1.0
    asides.drop(A)
    asides.drop(C)
    assert (asides.run(One.pump, 1.0), len(asides), A in asides, asides.get(B)) == (None, 0, False, None)
    assert a.pumped == [0.0]
