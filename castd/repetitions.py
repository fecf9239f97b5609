"""
Tell who asks again from who asks once.

A client that is not answered repeats its request, from the same port.  A flood that invents a name for each request
does not, so where there is not enough for all, those who ask again go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)

#: What comes sooner after a request is a copy of it: made on the way, or by a forger who sends each datagram twice.
#: No client that boots repeats a request sooner than iPXE: after 0.25 s by its own clock (C{src/net/retry.c}, for TFTP,
#: MTFTP and the DHCP REQUEST), of which a BIOS that counts 18 ticks a second makes 0.22 s.  busybox's tftp does, after
#: 0.05 s, and goes on: its third repetition comes after 0.24 s.  Seconds.
SOONEST_REPETITION = 0.2


class Repetitions(Generic[_Key]):
    """
    Remembers who has asked and was not answered, so that it is known when he asks again.

    It counts from the last request that was no copy: so who goes on asking is remembered longest, and copies renew
    nothing.
    """

    def __init__(self, until: float, most: int, after: float = SOONEST_REPETITION) -> None:
        """
        @param until: how much later a request may come, to count as a repetition.  Seconds.
        @param most: those who are remembered at once; beyond that, who has not asked for the longest time is forgotten.
        @param after: how much later it has to come.  Seconds.
        """
        self._until, self._most, self._after = until, most, after
        self._asked: OrderedDict[_Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, key: _Key, now: float) -> None:
        """Note that this one has asked at this instant and is not answered; a copy of his request changes nothing."""
        if 0 <= now - self._asked.get(key, float("-inf")) < self._after:
            return
        self._asked[key] = now
        self._asked.move_to_end(key)
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)

    def asksAgain(self, key: _Key, now: float) -> bool:
        """Return whether a request of this one at this instant repeats one that was not answered."""
        return self._after <= now - self._asked.get(key, now) <= self._until

    def discard(self, key: _Key) -> None:
        """Forget this one: he is answered."""
        self._asked.pop(key, None)
