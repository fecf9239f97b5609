"""
Find out which machine asks: by what it has said itself, the kernel's table of neighbours, and leases of DHCP servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.files.threads import DiskThreads, RunInThread, Waiters, whenAll
from castd.interfaces import IMachines
from castd.machines.known import KnownMachine, plainAddress
from castd.machines.lease_file import LeaseFile
from castd.machines.leases import Lease
from castd.machines.neighbours import readNeighbours
from castd.machines.options import MachinesOptions
from castd.machines.table import HeardMachine, MachineTable
from castd.request import Peer

_log = Logger(namespace="castd")

T = TypeVar("T")

#: Seconds for which a machine that was found counts as known.
FRESH = 1.0
#: Seconds until it is read again for a machine that was not found, which may have come meanwhile; and at least so many
#: times as long as reading it has taken.
PAUSE, PAUSE_FACTOR = 0.05, 20.0
#: The most seconds that a request waits for it; then it is served by what is known.
LONGEST_WAIT = 0.5
#: The most requests that wait at once; the others are served by what is known.
MOST_WAITING = 1024


class Reading(Generic[T]):
    """
    Reads something in a thread when somebody asks for it, with a pause between two times.
    """

    def __init__(
        self, what: str, read: Callable[[], T], store: Callable[[T], object], clock: IReactorTime, thread: RunInThread
    ) -> None:
        """
        @param what: the name of it, for the log.
        @param read: reads it, in the thread; raises OSError.
        @param store: is given what was read.
        """
        self._what, self._function, self._store = what, read, store
        self._clock, self._thread = clock, thread
        self._staleAt = self._nextAt = float("-inf")
        self._begun: float | None = None
        self._timer: IDelayedCall | None = None
        self._waiting: Waiters[None] = Waiters()
        self._waitingNext: Waiters[None] = Waiters()
        self._told = False

    def refresh(self, known: bool) -> Deferred[None] | None:
        """
        Read again, unless what was read last is good enough.

        @param known: it has what is looked for, and may be a second old; C{False}: only what is read from now on may
            have that.
        @return: fires when it was read, or takes too long; L{None}: there is nothing to wait for.
        """
        now = self._clock.seconds()
        if known and now < self._staleAt:
            return None
        if self._begun is None and now >= self._nextAt:
            waiting = self._waitingNext.add()
            self._begin()
            if waiting.called:
                return None
        elif len(self._waiting) + len(self._waitingNext) >= MOST_WAITING or now >= (self._begun or now) + LONGEST_WAIT:
            return None
        else:
            waiting = (self._waiting if known and self._begun is not None else self._waitingNext).add()
            self._beginLater(now)
        # A lease file may lie on a disk that does not answer.
        waiting.addTimeout(LONGEST_WAIT, self._clock, lambda *_: None)
        return waiting

    def _beginLater(self, now: float) -> None:
        """Begin when the pause is over, if somebody waits for it."""
        if self._waitingNext and self._timer is None and self._begun is None:
            self._timer = self._clock.callLater(max(0.0, self._nextAt - now), self._begin)

    def _begin(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer, self._begun = None, self._clock.seconds()
        self._waiting, self._waitingNext = self._waitingNext, Waiters()
        self._thread(self._function).addBoth(self._read)

    def _read(self, result: T | Failure) -> None:
        now = self._clock.seconds()
        took, self._begun = now - (self._begun or now), None
        self._staleAt = now + max(FRESH, PAUSE_FACTOR * took)
        self._nextAt = now + max(PAUSE, PAUSE_FACTOR * took)
        if not isinstance(result, Failure):
            self._store(result)
            self._told = False
        elif result.check(OSError):
            self._tell(getattr(result.value, "strerror", None) or "no answer")
        else:
            _log.failure("{what} could not be read", result, event="fault", what=self._what)
        self._waiting.fire(None)
        self._beginLater(now)

    def _tell(self, why: str) -> None:
        """Write a line, once until it can be read again."""
        if not self._told:
            form = "{what} cannot be read, so machines are not known by it: {why}"
            _log.warn(form, event="unread-machines", what=self._what, why=why)
        self._told = True


@implementer(IMachines)
class Machines:
    """
    Knows machines, for all transports of a site.

    The kernel and the lease files are read in threads, and only while requests need them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        makeThread: Callable[[], RunInThread] = lambda: DiskThreads(1),
        neighbours: Callable[[], Mapping[str, str]] = readNeighbours,
        wallClock: Callable[[], float] = time.time,
    ) -> None:
        """
        @param makeThread: makes what runs functions that may have to wait.
        @param neighbours: reads the table of neighbours.
        @param wallClock: -> seconds since 1970.
        """
        self.table = MachineTable()
        self._clock = clock
        self._makeThread = makeThread
        self._neighbours = neighbours
        self._wallClock = wallClock
        self._options: MachinesOptions | None = None
        self._readings: Sequence[Reading[Mapping[str, str]] | Reading[Mapping[str, Lease]]] = ()
        self.adjust(MachinesOptions())

    def adjust(self, options: MachinesOptions) -> None:
        """Read from these places from now on."""
        if options == self._options:
            return
        self._options = options
        # What is still being read by the former readings is stored nowhere.
        table = self.table = self.table.onlyHeard()
        readings: list[Reading[Mapping[str, str]] | Reading[Mapping[str, Lease]]] = []
        if options.neighbours:
            what = "the kernel's table of neighbours"
            readings.append(Reading(what, self._neighbours, table.setNeighbours, self._clock, self._makeThread()))
        for number, each in enumerate(options.leases):
            store = partial(table.setLeases, number)
            readings.append(Reading(str(each.path), LeaseFile(each).read, store, self._clock, self._makeThread()))
        self._readings = readings

    def hear(self, mac: str, uuid: str | None, arch: str | None, ip: str | None = None) -> None:
        """As L{IMachines.hear}."""
        self.table.hear(mac, uuid, arch, ip, self._clock.seconds())

    def heard(self) -> Sequence[HeardMachine]:
        """Return what machines have said of themselves, the oldest first, each with the seconds since then as C{at}."""
        now = self._clock.seconds()
        return [each._replace(at=now - each.at) for each in self.table.heard()]

    def adopt(self, heard: Iterable[HeardMachine]) -> None:
        """Add what L{heard} has returned in another process."""
        now = self._clock.seconds()
        self.table.adopt(each._replace(at=now - each.at) for each in heard)

    def machineOf(self, peer: Peer, server: str | None = None) -> KnownMachine | Deferred[KnownMachine]:
        """As L{IMachines.machineOf}."""
        found = self._machineOf(None, peer, server)
        known = found.mac is not None
        waited = [waiting for each in self._readings if (waiting := each.refresh(known)) is not None]
        if not waited:
            return self._machineOf(None, peer, server)
        return whenAll(waited).addCallback(self._machineOf, peer, server)

    def _machineOf(self, _: object, peer: Peer, server: str | None) -> KnownMachine:
        return self.table.machineOf(peer, server, self._clock.seconds(), self._wallClock())

    def identify(self, addresses: Iterable[str]) -> dict[str, dict[str, str]]:
        """
        Return C{mac}, C{uuid} and C{arch} of the machines at these addresses, as far as they are known.

        It may be called in any thread.  The kernel is asked now; of leases and of what machines have said it takes what
        is known already.
        """
        neighbours: Mapping[str, str] = {}
        if self._options is not None and self._options.neighbours:
            with suppress(OSError):
                neighbours = self._neighbours()
        found = {}
        for address in addresses:
            mac = neighbours.get(plainAddress(address) or "")
            peer = address, 0
            machine = self._machineOf(None, peer, None) if mac is None else self.machineWith(mac, peer)
            known = {"mac": machine.mac, "uuid": machine.uuid, "arch": machine.arch}
            found[address] = {key: value for key, value in known.items() if value is not None}
        return found

    def machineWith(self, mac: str | None, peer: Peer, server: str | None = None) -> KnownMachine:
        """As L{IMachines.machineWith}."""
        return self.table.machineWith(mac, peer, server, self._wallClock())
