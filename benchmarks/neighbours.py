"""Measures what others took of the CPUs while something ran: other processes, and other virtual machines (steal)."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

#: A run is disturbed if others took more than this part of its time on one of its CPUs, and more than this (seconds:
#: the kernel counts in hundredths).
PART, LEAST = 0.10, 0.05
TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpus:
    """
    Seconds that some CPUs have spent since the machine started.

    @ivar busy: running something, in the kernel or not; C{stolen}: ready to run, while the host ran others.
    """

    busy: float
    stolen: float

    @classmethod
    def parse(cls, stat: str, cpus: Collection[int], tick: float = TICK) -> Cpus:
        """
        @param stat: the text of C{/proc/stat}; C{tick}: seconds of its unit.
        """
        busy = stolen = 0.0
        names = {f"cpu{number}" for number in cpus}
        for line in stat.splitlines():
            name, *fields = line.split()
            if name in names:
                user, nice, system, _, _, interrupts, soft, steal = (int(field) * tick for field in fields[:8])
                busy += user + nice + system + interrupts + soft
                stolen += steal
        return cls(busy, stolen)

    @classmethod
    def now(cls, cpus: Collection[int]) -> Cpus:
        """@return: what the kernel has counted so far."""
        return cls.parse(Path("/proc/stat").read_text(), cpus)


@dataclass(frozen=True)
class Disturbance:
    """
    What others took during one run.

    @ivar others: seconds of other processes on our CPUs; C{stolen}: of other virtual machines; C{seconds}: the run.
    """

    others: float
    stolen: float
    seconds: float

    @classmethod
    def between(cls, before: Cpus, after: Cpus, own: float, seconds: float) -> Disturbance:
        """
        @param own: CPU seconds of all processes that belong to the run.
        """
        return cls(max(0.0, after.busy - before.busy - own), max(0.0, after.stolen - before.stolen), seconds)

    @property
    def part(self) -> float:
        """What others took, as a part of one CPU."""
        return (self.others + self.stolen) / self.seconds if self.seconds else 0.0

    @property
    def serious(self) -> bool:
        """Whether the run should be repeated."""
        return self.part > PART and self.others + self.stolen > LEAST
