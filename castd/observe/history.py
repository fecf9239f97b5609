"""Collects the last events of every machine for C{castd history}, and has a thread write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from operator import attrgetter
from typing import TypeAlias

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.errors import reasonOf
from castd.files.threads import RunInThread
from castd.machines.known import validMac
from castd.observe.eventstore import Found, KeptEvent, Query, Store, storable
from castd.observe.format import addressOf, asMessage, levelName

_log = Logger(namespace="castd")

#: Finds out what is known of the machines at these addresses, as fields of an event, in the thread that writes.
Identify: TypeAlias = Callable[[Collection[str]], Mapping[str, Mapping[str, str]]]

#: Events that wait: whether the machine was served -> what equal events have in common -> the first of them, and their
#: number.
_Waiting: TypeAlias = dict[bool, dict[Hashable, tuple[KeptEvent, int]]]

#: Seconds from an event until it is written, with those that come meanwhile.
DELAY = 0.5
#: The most entries that wait to be written: of machines that were served, and as many of others.
MOST_WAITING = 4096
#: The event that says that the history itself cannot be written; it is not kept, as it would be lost as well.
UNKEPT = "unkept"
#: Events that say that somebody did not get what he wanted.
_FAILED = frozenset({"refused", "crowded", "size-only", "unanswered", "unfetched", "refused-reload", "refused-upgrade"})


def isKept(event: LogEvent) -> bool:
    """Return whether an event is castd's, and not only for those who look for a fault in castd."""
    kind = event.get("event")
    return kind is not None and kind != UNKEPT and levelName(event) != "debug"


def entryOf(event: LogEvent) -> KeptEvent:
    """Return the entry of an event that is kept."""
    return _entry(event, _machineOf(event), _isServed(event))


def _entry(event: LogEvent, machine: str | None, served: bool) -> KeptEvent:
    name = event.get("name")
    fields = {key: value for key, value in event.items() if key[:4] != "log_" or key == "log_format"}
    return KeptEvent(
        time=event.get("log_time", 0.0),
        address=machine,
        name=None if name is None else storable(str(name)),
        event=str(event.get("event")),
        failed=isFailure(event),
        served=served,
        times=1,
        fields=_encode(fields),
    )


def _machineOf(event: LogEvent) -> str | None:
    """Return the address of the machine that an event is about, or its MAC; L{None}: it is about the server."""
    return addressOf(event.get("peer")) or validMac(event.get("machine"))


def _isServed(event: LogEvent) -> bool:
    """Return whether a machine has acknowledged something in this event, so that its address is no forgery."""
    outcome = event.get("outcome")
    if event.get("event") != "received" or outcome not in outcomes.ANSWERED or not event.get("octets"):
        return False
    # A listener of a group may never have sent more than its request.
    return outcome != outcomes.UNCONFIRMED or event.get("group") is None


def isFailure(event: LogEvent) -> bool:
    """Return whether an event says that somebody did not get what he wanted."""
    kind, told = event.get("event"), event.get("verdict") is not None
    if kind == "received":
        return told or event.get("outcome") not in outcomes.ANSWERED
    # Who hears nothing of a group gets the file, and costs the network another copy of it.
    return kind in _FAILED or (kind == "moved" and told)


# Made once: json.dumps makes one for each call.
_encode = json.JSONEncoder(default=str).encode


@implementer(ILogObserver)
class History:
    """
    Collects the events of castd, and has a thread write them.

    Of equal events that come together one is written, with their number.

    @ivar store: the events that were written.
    @ivar lost: how many events were not kept, because too many came at once, or because the disk failed.
    """

    def __init__(
        self, reactor: IReactorTime, run: RunInThread, store: Store, identify: Identify = lambda _: {}
    ) -> None:
        """@param identify: what it finds is kept with what has failed: an address may be another machine's tomorrow."""
        self.store = store
        self._identify = identify
        self.lost = 0
        self._reactor = reactor
        self._run = run
        self._waiting: _Waiting = {True: {}, False: {}}
        self._timer: IDelayedCall | None = None
        self._disk = DeferredLock()
        self._queued = False  # a write waits for what is under way on the disk
        self._toldWhy: str | None = None

    def __call__(self, event: LogEvent) -> None:
        if not isKept(event):
            return
        served = _isServed(event)
        waiting = self._waiting[served]
        machine, name = _machineOf(event), event.get("name")
        key = (
            machine,
            event["event"],
            event.get("transport"),
            # What the server does itself it does seldom, and with whatever fields: ports, groups, paths.
            asMessage(event) if machine is None else None,
            name and str(name),
            event.get("outcome"),
            event.get("why"),
            event.get("limit"),
            event.get("fault"),
        )
        found = waiting.get(key)
        if found is None and len(waiting) >= MOST_WAITING:
            self.lost += 1
            return
        # Only the first of equal events is written: the others cost no entry, which is the dearest part.
        waiting[key] = (_entry(event, machine, served), 1) if found is None else (found[0], found[1] + 1)
        if self._timer is None and not self._disk.locked:
            self._timer = self._reactor.callLater(DELAY, self._write)

    @property
    def pendingCalls(self) -> int:
        """How many delayed calls of the reactor wait until events are written."""
        return int(self._timer is not None and self._timer.active())

    def _write(self) -> None:
        """Have the events that wait written, behind what is under way on the disk."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        # One writes all that wait when its turn comes; a disk may hang for hours, and be asked about all the time.
        if not self._queued:
            self._queued = True
            self._disk.run(self._writeWaiting).addCallback(self._written)

    def _writeWaiting(self) -> Deferred[None]:
        """Write the events that wait.  -> fires when they are written, or could not be; it does not fail."""
        self._queued = False
        waiting, self._waiting = self._waiting, {True: {}, False: {}}
        if not any(waiting.values()):
            return succeed(None)
        return self._run(lambda: self._writeInThread(waiting)).addErrback(self._failed, waiting)

    def _writeInThread(self, waiting: _Waiting) -> None:
        """Write events, in the thread: there may be thousands, and to put them in order takes 5 microseconds each."""
        entries = [each._replace(times=count) for kind in waiting.values() for each, count in kind.values()]
        entries.sort(key=attrgetter("time"))
        self.store.add(self._identified(entries), entries[-1].time)

    def _identified(self, entries: Sequence[KeptEvent]) -> list[KeptEvent]:
        """Return entries with what is known of the machines of those that have failed."""
        addresses = {each.address for each in entries if each.failed and each.address is not None}
        known = self._identify(addresses) if addresses else {}

        def identified(entry: KeptEvent) -> KeptEvent:
            more = known.get(entry.address or "") if entry.failed else None
            return entry._replace(fields=f"{entry.fields[:-1]}, {_encode(more)[1:]}") if more else entry

        return [identified(each) for each in entries]

    def _failed(self, failure: Failure, waiting: _Waiting) -> None:
        events = sum(count for kind in waiting.values() for _, count in kind.values())
        self.lost += events
        form = "{events} events are not in the history: {why}"
        _log.warn(form, event=UNKEPT, events=events, why=reasonOf(failure.value))

    def tellOfFile(self) -> None:
        """Log that the store has put an unusable file aside, or cannot use its file yet, unless it is told already."""
        self.tellPutAside()
        why, before, self._toldWhy = self.store.waitsFor, self._toldWhy, self.store.waitsFor
        if why is not None and why != before:
            form = "{path} is not written to, and the history is in memory until it can be: {why}"
            _log.warn(form, event="unused-history", path=self.store.path, why=why)

    def tellPutAside(self) -> None:
        """Log that the store has put an unusable file aside, unless it is told already."""
        aside, self.store.putAside = self.store.putAside, None
        if aside is not None:
            form = "{path} could not be used as a history, and is {aside} now"
            _log.warn(form, event="put-aside", path=self.store.path, aside=aside)

    def _written(self, _: None) -> None:
        self.tellOfFile()
        self._writeLater()

    def _writeLater(self) -> None:
        """Have written soon what has come while the disk was asked for something."""
        if any(self._waiting.values()) and self._timer is None:
            self._timer = self._reactor.callLater(DELAY, self._write)

    def find(self, query: Query) -> Deferred[list[Found]]:
        """
        Return what was asked for, with all that has happened until now.

        @raise sqlite3.Error: the file is damaged.
        """
        self._write()
        return self._disk.run(lambda: self._run(lambda: self.store.find(query))).addBoth(self._asked)

    def _asked(self, result: list[Found] | Failure) -> list[Found] | Failure:
        self._writeLater()
        return result

    def close(self) -> Deferred[None]:
        """Have everything written, and the file closed."""
        self._write()
        return self._disk.run(lambda: self._run(self.store.close))
