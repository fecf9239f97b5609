"""
Remember the machines that receive nothing of what is sent to groups: they are served by unicast at once.
"""

from __future__ import annotations

from collections.abc import Iterator

#: How long a machine is remembered where the options of a transport do not say it.  Seconds.
DEAF_FOR = 300.0
#: Machines remembered at once; beyond that the oldest is forgotten.
MOST_DEAF = 4096


class DeafMachines:
    """
    Remembers machines by address, each for some time.  Only one that was shown to hear nothing is remembered, and it is
    forgotten when it shows that it hears a group (docs/decisions/group-reachability.md).

    @ivar until: the instant at which each machine is forgotten, by its address.
    """

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until: dict[str, float] = {}

    def remember(self, host: str, seconds: float, now: float) -> None:
        """Remember a machine for so many seconds from now on."""
        self.until.pop(host, None)
        self.until[host] = now + seconds
        if len(self.until) > MOST_DEAF:
            del self.until[next(iter(self.until))]

    def forget(self, host: str) -> bool:
        """Forget a machine.  -> whether it was remembered."""
        return self.until.pop(host, None) is not None

    def knows(self, host: str, now: float) -> bool:
        """Return whether a machine is remembered now."""
        end = self.until.get(host)
        if end is not None and now >= end:
            del self.until[host]
            return False
        return end is not None

    def remembered(self, now: float) -> Iterator[tuple[str, float]]:
        """Return the address of each machine that is remembered, and for how many seconds from now on."""
        return ((host, end - now) for host, end in self.until.items() if end > now)
