"""
Defines what a check is asked about, and what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from castd.config.config import Config
from castd.doctor.machine import IMachine
from castd.interfaces import ServicePort
from castd.service.privileges import UnprivilegedUser

#: C{fine}: it is as it should be; C{problem}: it is not, and clients will notice; C{not seen}: it may be there, and
#: this machine has not seen it; C{not known}: this machine or this user cannot find out; C{skipped}: it is not asked
#: for, or there is nothing to look at.
Verdict: TypeAlias = Literal["fine", "problem", "not seen", "not known", "skipped"]


class Finding(NamedTuple):
    """
    One thing that a check has found.

    @ivar what: what was found, with its place.
    @ivar cure: what an operator can do; C{""}: nothing needs to be done.
    """

    verdict: Verdict
    what: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What is examined: a service file, and the server that serves it or will.

    @ivar user: the user who serves; L{None}: not known, and this process's own user is looked at.
    @ivar pid: the server that runs with this file; L{None}: none is known of.
    @ivar seconds: how long is listened for an IGMP querier.
    @ivar probe: DHCP servers may be asked.
    @ivar servicePorts: the ports of services that plugins bring, each behind the name of its service.
    """

    config: Config
    user: UnprivilegedUser | None = None
    pid: int | None = None
    seconds: float = 3.0
    probe: bool = False
    servicePorts: Sequence[tuple[str, ServicePort]] = ()

    @property
    def process(self) -> str:
        """The name below C{/proc} of the process to look at: the server, or else this one."""
        return "self" if self.pid is None else str(self.pid)

    @property
    def interfaces(self) -> Iterator[tuple[str, str]]:
        """The name of each transport that listens at an address, and that address; C{""}: at all of IPv4."""
        for entry in self.config.transports:
            if isinstance(interface := getattr(entry.options, "interface", None), str):
                yield entry.name, interface


class Check(NamedTuple):
    """
    One check.

    @ivar name: its word in the output, which stays the same from version to version.
    @ivar look: finds out.
    @ivar seconds: how long it may take, beside what it is told to listen.
    """

    name: str
    look: Callable[[Subject, IMachine], Iterator[Finding]]
    seconds: float = 5.0
