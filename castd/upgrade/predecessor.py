"""
Elder: the process that this one takes over from, as seen from here (C{castd upgrade}).

Its sockets come with the start.  When it says so this process reads them, and hands on what is for a transfer of the
elder's: it may be written to the very port that requests come to.  What the elder is, it tells; the other side is
L{castd.upgrade.successor}.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from castd.group_pool import Group
from castd.net.activation import SocketsByAddress
from castd.observe.sdnotify import STOP_MARGIN
from castd.request import Local, Peer, hostPort
from castd.upgrade.channel import Channel, Message, packed, peerOf, put, take, unpacked

_log = Logger(namespace="castd")

#: What a process that is to take over is told in its environment: the descriptor of the channel.
ENVIRON = "CASTD_ELDER"
#: Seconds that the sockets may take.
PATIENCE = 10.0
#: Peers remembered whose request came back from the elder.
MOST_RETURNED = 4096
#: Peers at a port who are taken for its members before it has said so.
MOST_GUESTS = 4096
#: Requests that wait for the end of one of its groups, and for how long at the most: who is there still asks again.
MOST_WAITING, STALE = 4096, 30.0

#: Where a port is: interface and number.
At = tuple[str, int]


class Inheritance:
    """
    What an elder hands over at the start.

    @ivar adopted: sockets that a supervisor had bound for it; C{inherited}: those that it has bound itself.
    @ivar doors: where its page of metrics and its control socket are.
    @ivar pid: its number.
    """

    def __init__(self, end: socket.socket) -> None:
        """
        @param end: of the channel.
        @raise OSError, EOFError: nothing comes.
        """
        self.end = end
        self.adopted: SocketsByAddress = {}
        self.inherited: SocketsByAddress = {}
        end.settimeout(PATIENCE)
        while (message := take(end)).told["say"] == "sockets":
            for (host, port, ours), descriptor in zip(message.told["at"], message.descriptors, strict=True):
                held = self.inherited if ours else self.adopted
                held[host, port] = socket.socket(fileno=descriptor)
        self.doors: dict[str, str] = message.told["doors"]
        self.pid: int = message.told["pid"]

    def refuse(self, faults: Iterable[str]) -> None:
        """This process cannot start."""
        # If it is gone there is nobody to be told.
        with suppress(OSError):
            put(self.end, Message({"say": "refused", "faults": list(faults)}))


def legacy(environ: MutableMapping[str, str]) -> Inheritance | None:
    """
    -> what the process before this one hands over, L{None}: there is none.  The environment is cleared of it.

    @raise OSError, EOFError: it has died.
    """
    number = environ.pop(ENVIRON, None)
    if number is None:
        return None
    os.set_inheritable(int(number), False)
    return Inheritance(socket.socket(fileno=int(number)))


class Predecessor(Service):
    """
    The process before this one, from its "take over" to its end.

    @ivar groups: how many of its casts send to each group; such a group is not begun here.
    """

    def __init__(self, server: Any, legacy: Inheritance, leave: Callable[[], object], channel: Any = Channel) -> None:
        """
        @param server: a L{castd.service.service.Server}, not started.
        @param leave: ends this process: the elder has thought better of it.
        @param channel: as L{Channel}.
        """
        self.groups: Counter[Group] = Counter()
        self.pid = legacy.pid
        self.doors = legacy.doors
        self.reading = False
        self._server = server
        self._site = server.site
        self._legacy = legacy
        self._leave = leave
        self._makeChannel = channel
        self._channel: Any = None
        self._guests: dict[At, set[Peer]] = {}
        self._used: dict[Group, tuple[str, float]] = {}
        self._returned: set[Peer] = set()
        self._waiting: dict[tuple[At, Peer], tuple[float, Group, bytes, Local]] = {}
        self._asksUntil = 0.0
        self._gone: list[Deferred[None]] = []

    # Life.

    def refuse(self, faults: Iterable[str]) -> None:
        """This process cannot start."""
        self._legacy.refuse(faults)

    def privilegedStartService(self) -> None:
        """The ports are open.  As long as the elder reads them, we do not."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._pause()

    def _pause(self) -> None:
        for each in self._server.addresses:
            # One that could not be had is a fault, and the end of this start.
            if each.port is not None:
                each.port.pause(False)

    def startService(self) -> None:
        """As soon as the reactor runs, the elder is told that it may stop reading."""
        super().startService()  # type: ignore[no-untyped-call]
        self._pause()
        self._site.predecessor = self
        self._channel = self._makeChannel(self._site.reactor, self._legacy.end, self._heard, self._lost)
        self._site.reactor.callLater(0, self._ready)

    def _ready(self) -> None:
        self._channel.say({"say": "ready", "claimed": [each.at for each in self._server.addresses]})

    def stopService(self) -> Deferred[None] | None:
        """Its transfers are given the same time to end.  -> fires when it is gone."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._site.predecessor is not self or not self.reading:
            self._close()
            return None
        self._channel.say({"say": "stop"})
        gone: Deferred[None] = self.gone()
        gone.addTimeout(self._site.limits.drain + STOP_MARGIN, self._site.reactor)
        gone.addErrback(lambda _: self._close())
        return gone

    def gone(self) -> Deferred[None]:
        """-> fires when it has ended; till then it hears by us."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    def _close(self) -> None:
        if self._site.predecessor is self:
            self._site.predecessor = None
        if self._channel is not None:
            self._channel.close()

    def _lost(self) -> None:
        """It is no more."""
        self._close()
        if not self.reading:
            _log.error("the process before this one goes on, or has died: nothing is taken over", event="disowned")
            self._leave()
            return
        now = self._site.reactor.seconds()
        for group in self.groups:
            self._give(group, now)
        for each in self._server.addresses:
            if each.port is not None:
                each.port.resume(True)
        _log.info("the process before this one ({pid}) has ended", event="alone", pid=self.pid)
        self._ended(lambda group: True)
        for gone in self._gone:
            if not gone.called:
                gone.callback(None)

    def _give(self, group: Group, now: float) -> None:
        """None of its casts sends there any more."""
        self._site.groupPool.release(group, now)
        self._rest(group, now)

    def _rest(self, group: Group, now: float) -> None:
        if group in self._used:
            self._site.groupPool.quarantine(group, *self._used[group], now)

    # What it says.

    def _heard(self, told: dict[str, Any], datagram: bytes) -> None:
        _WORDS[told["say"]](self, told, datagram)

    def _state(self, told: dict[str, Any], _: bytes) -> None:
        """How it stands, in several messages, before we read."""
        now = self._site.reactor.seconds()
        if "guests" in told:
            self._guests.setdefault(tuple(told["at"]), set()).update(map(peerOf, told["guests"]))
        groups = [(host, port) for host, port in told.get("groups", ())]
        self.groups.update(groups)
        resting = [((host, port), seconds) for (host, port), seconds in told.get("resting", ())]
        self._site.groupPool.adopt(groups, resting, now)
        for (host, port), use, seconds in told.get("used", ()):
            self._used[host, port] = use, seconds
            self._rest((host, port), now)

    def _barred(self, told: dict[str, Any], _: bytes) -> None:
        self._site.bar(*told["bar"])

    def _read(self, told: dict[str, Any], _: bytes) -> None:
        """From now on we read."""
        self.reading = True
        self._asksUntil = self._site.reactor.seconds() + self._site.limits.drain
        for each in self._server.addresses:
            each.port.resume(False)
        self._server.succession.take()
        self._channel.say({"say": "serving"})
        _log.info("taken over from {pid}, which ends its transfers", event="taken-over", pid=self.pid)

    def _here(self, told: dict[str, Any], _: bytes) -> None:
        self._guests.setdefault(tuple(told["at"]), set()).add(peerOf(told["peer"]))

    def _left(self, told: dict[str, Any], _: bytes) -> None:
        self._guests[tuple(told["at"])].discard(peerOf(told["peer"]))

    def _freed(self, told: dict[str, Any], _: bytes) -> None:
        host, port = told["group"]
        self.groups[host, port] -= 1
        if self.groups[host, port] <= 0:
            del self.groups[host, port]
            self._give((host, port), self._site.reactor.seconds())
            self._ended(lambda group: group == (host, port))

    def _back(self, told: dict[str, Any], datagram: bytes) -> None:
        """A request that came to it, and that it does not serve."""
        at, peer = tuple(told["at"]), peerOf(told["peer"])
        self._guests.get(at, set()).discard(peer)
        if len(self._returned) >= MOST_RETURNED:
            self._returned.clear()
        self._returned.add(peer)
        self._served(at, datagram, peer, unpacked(told["local"]))

    # What it is told.

    def serves(self, at: At, peer: Peer) -> bool:
        """Does what this peer sends to this port belong to the elder?"""
        guests = self._guests.get(at)
        return guests is not None and peer in guests

    def give(self, at: At, datagram: bytes, peer: Peer, local: Local) -> None:
        """This came for it."""
        self._channel.say({"say": "give", "at": at, "peer": peer, "local": packed(local)}, datagram)

    def unreachable(self, at: At, peer: Peer) -> None:
        """This peer's host says that its port is closed."""
        self._channel.say({"say": "unreachable", "at": at, "peer": peer})

    def ask(self, at: At, group: Group, datagram: bytes, peer: Peer, local: Local) -> None:
        """
        A request for a group that lives in the elder: it joins there.

        Only within C{limits.drain}, for else the elder would never end.  Who comes later, or may not join, waits till
        the group has ended; its data is heard meanwhile.
        """
        now = self._site.reactor.seconds()
        if peer not in self._returned and now < self._asksUntil:
            guests = self._guests.setdefault(at, set())
            # It is one as soon as the elder says so, too; what it sends before that should not go astray.
            if len(guests) < MOST_GUESTS:
                guests.add(peer)
            self.give(at, datagram, peer, local)
            return
        _log.info("{peer} waits for the end of a group of {pid}", event="waits", peer=hostPort(peer), pid=self.pid)
        if len(self._waiting) < MOST_WAITING or (at, peer) in self._waiting:
            self._waiting[at, peer] = (now + STALE, group, datagram, local)

    def _ended(self, over: Callable[[Group], bool]) -> None:
        """Who waits for one of these groups is served."""
        now = self._site.reactor.seconds()
        for (at, peer), (until, group, datagram, local) in list(self._waiting.items()):
            if over(group):
                del self._waiting[at, peer]
                if now < until:
                    self._served(at, datagram, peer, local)

    def _served(self, at: At, datagram: bytes, peer: Peer, local: Local) -> None:
        for each in self._server.addresses:
            if each.at == at:
                each.transport.datagramFrom(datagram, peer, local)


_WORDS: dict[str, Callable[[Predecessor, dict[str, Any], bytes], None]] = {
    "state": Predecessor._state,
    "bar": Predecessor._barred,
    "read": Predecessor._read,
    "here": Predecessor._here,
    "left": Predecessor._left,
    "freed": Predecessor._freed,
    "back": Predecessor._back,
}
