"""
Takes over from the predecessor, in the new process; L{castd.upgrade} has the theory of operation.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import assert_never

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from castd.errors import MOST_FAULTS, firstFaults, reasonOf
from castd.group_pool import Group
from castd.interfaces import IPredecessor
from castd.machines.table import HeardMachine
from castd.net.activation import SocketsByAddress
from castd.observe.sdnotify import STOP_MARGIN
from castd.request import Local, Peer, hostPort
from castd.units import wholeNumber
from castd.upgrade.channel import (
    LONGEST,
    ChannelToPredecessor,
    MakeChannel,
    Packet,
    UnreadablePacket,
    receivePacket,
    sendPacket,
)
from castd.upgrade.messages import (
    BindAddress,
    FreedMessage,
    FromPredecessor,
    FromSuccessor,
    RefusedMessage,
    StateMessage,
    asAddress,
    asLocal,
    asPeer,
    localFields,
)
from castd.upgrade.upgradable import UpgradableServer

_log = Logger(namespace="castd")

#: The variable that holds the descriptor of the successor's end of the channel.
ENVIRON = "CASTD_ELDER"
_MOST_DESCRIPTOR = (1 << 31) - 1
#: The most seconds that this process waits for the sockets.
SOCKETS_TIMEOUT = 10.0
#: The most seconds from the end of the channel to that of the predecessor: a process that is killed closes its
#: descriptors a moment before it is gone.
DEATH_TIMEOUT = 5.0
#: Seconds between two looks for its end.
DEATH_CHECK = 0.1
#: The most peers remembered whose request came back from the predecessor.
MOST_RETURNED = 4096
#: The most peers at a port that are taken for the predecessor's before it has said C{here}.
MOST_GUESTS = 4096
#: The most requests that wait for the end of a group of the predecessor.
MOST_WAITING = 4096
#: The most seconds that such a request waits: a client that is still there asks again.
WAITING_TIMEOUT = 30.0


class Inheritance:
    """
    What the predecessor passes on before this process has read the service file.

    @ivar adopted: sockets that a supervisor had bound for the predecessor.
    @ivar inherited: sockets that the predecessor has bound itself.
    @ivar adminAddresses: the addresses of the predecessor's admin ports, by name.
    @ivar pid: the process id of the predecessor.
    @ivar orphaned: the predecessor died before it had passed on everything: this process serves with what has come.
    """

    def __init__(self, end: socket.socket) -> None:
        """
        Receive what the predecessor passes on.

        @param end: this process's end of the channel.
        @raise OSError, EOFError: the predecessor sends nothing, or something else, or has closed its end and lives.
        """
        self.end = end
        self.adopted: SocketsByAddress = {}
        self.inherited: SocketsByAddress = {}
        self.adminAddresses: dict[str, str] = {}
        self.pid = _creatorOf(end)
        self.orphaned = False
        end.settimeout(SOCKETS_TIMEOUT)
        try:
            self._receive(end)
        except (EOFError, ConnectionError):
            if not hasEnded(self.pid, DEATH_TIMEOUT):
                raise
            self.orphaned = True
        except UnreadablePacket as error:
            raise EOFError(str(error)) from None
        except (ValueError, TypeError, LookupError):
            raise EOFError("what comes through the channel is no message of castd") from None

    def _receive(self, end: socket.socket) -> None:
        packet: Packet[FromPredecessor] = receivePacket(end)
        while packet.message["say"] == "sockets":
            for (host, port, own), descriptor in zip(packet.message["at"], packet.descriptors, strict=True):
                sockets = self.inherited if own else self.adopted
                sockets[host, port] = socket.socket(fileno=descriptor)
            packet = receivePacket(end)
        if packet.message["say"] != "begin":
            raise EOFError(f"it says {packet.message['say']!r} before it has passed its sockets on")
        self.adminAddresses = packet.message["doors"]
        self.pid = packet.message["pid"]

    def refuse(self, faults: Iterable[str]) -> None:
        """Tell the predecessor why this process cannot start, as far as that fits into one packet."""
        refused: RefusedMessage = {"say": "refused", "faults": [_shortened(each) for each in firstFaults((*faults,))]}
        # A predecessor that has died needs no answer.
        with suppress(OSError):
            sendPacket(self.end, Packet[FromSuccessor](refused))


def _shortened(fault: str) -> str:
    """Return a fault, or its beginning, so that as many as are told have room in one packet."""
    while len(json.dumps(fault)) > LONGEST // (MOST_FAULTS + 2):
        fault = f"{fault[: len(fault) // 2]}…"
    return fault


def receiveInheritance(environ: MutableMapping[str, str]) -> Inheritance | None:
    """
    Receive what a predecessor passes on to this process.

    @param environ: the environment; the variable of the channel is removed from it.
    @return: L{None}: this process has no predecessor.
    @raise OSError, EOFError: as L{Inheritance}; or the variable names no descriptor.
    """
    named = environ.pop(ENVIRON, None)
    if named is None:
        return None
    descriptor = wholeNumber(named, _MOST_DESCRIPTOR)
    try:
        if descriptor is None:
            raise OSError(errno.EBADF, "no number of a descriptor")
        os.set_inheritable(descriptor, False)
        end = socket.socket(fileno=descriptor)
    except OSError as error:
        why = f"{ENVIRON} names no channel: {reasonOf(error)}; castd sets it for an upgrade, nobody else should"
        raise OSError(error.errno, why) from None
    return Inheritance(end)


def _creatorOf(end: socket.socket) -> int:
    """Return the process id of the process that has made a pair of sockets."""
    pid, _, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)


def hasEnded(pid: int, seconds: float = 0.0) -> bool:
    """
    Return whether a process has ended, though perhaps its parent has not asked for its status yet.

    @param seconds: how long to wait for its end.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(descriptor)


@implementer(IPredecessor)
class Predecessor(Service):
    """
    The process that this one takes over from, until that process has ended.

    @ivar pid: the process id of the predecessor.
    @ivar adminAddresses: the addresses of the predecessor's admin ports, by name.
    @ivar takenOver: this process reads the request ports.
    @ivar groups: how many casts of the predecessor send to each group; no cast to such a group is begun here.
    """

    def __init__(
        self,
        server: UpgradableServer,
        inheritance: Inheritance,
        leave: Callable[[], object],
        makeChannel: MakeChannel[FromPredecessor, FromSuccessor],
        hasEnded: Callable[[int], bool] = hasEnded,
    ) -> None:
        """
        @param server: the server of this process, not started.
        @param leave: ends this process, when the predecessor has closed the channel and goes on.
        @param hasEnded: -> whether the process with this id has ended.
        """
        self.pid = inheritance.pid
        self.adminAddresses = inheritance.adminAddresses
        self.takenOver = False
        self.groups: Counter[Group] = Counter()
        self._server = server
        self._site = server.site
        self._inheritance = inheritance
        self._leave = leave
        self._makeChannel = makeChannel
        self._hasEnded = hasEnded
        self._channel: ChannelToPredecessor | None = None
        self._guests: dict[BindAddress, set[Peer]] = {}
        self._used: dict[Group, tuple[str, float]] = {}
        self._returned: set[Peer] = set()
        self._waiting: dict[tuple[BindAddress, Peer], tuple[float, Group, bytes, Local]] = {}
        self._joinableUntil = 0.0
        self._ended: list[Deferred[None]] = []

    # Start and stop.

    def refuse(self, faults: Iterable[str]) -> None:
        """Tell the predecessor why this process cannot start."""
        self._inheritance.refuse(faults)

    def privilegedStartService(self) -> None:
        """Pause the request ports, which have just been opened: the predecessor still reads them."""
        super().privilegedStartService()
        self._pause()

    def _pause(self) -> None:
        for each in self._server.addresses:
            # A port that could not be opened is a fault, which ends this start anyway.
            if each.port is not None:
                each.port.pause(False)

    def startService(self) -> None:
        """Tell the predecessor that it may stop reading, as soon as the reactor runs."""
        super().startService()
        self._pause()
        self._site.predecessor = self
        self._channel = self._makeChannel(self._inheritance.end, self._received, self._channelLost)
        self._site.reactor.callLater(0, self._ready)

    def _ready(self) -> None:
        self._send({"say": "ready", "claimed": [each.bindAddress for each in self._server.addresses]})

    def _send(self, message: FromSuccessor, datagram: bytes = b"") -> None:
        if self._channel is not None:
            self._channel.send(message, datagram)

    def stopService(self) -> Deferred[None] | None:
        """Stop the predecessor, whose transfers get the same time to end.  -> fires when it has ended."""
        super().stopService()
        serving = self.takenOver and self._site.predecessor is self
        if not serving:
            self._close()
            return None
        self._send({"say": "stop"})
        ended = self.ended()
        ended.addTimeout(self._site.limits.drain + STOP_MARGIN, self._site.reactor)
        ended.addErrback(lambda _: self._close())
        return ended

    def ended(self) -> Deferred[None]:
        """
        Return a Deferred that fires when the predecessor has ended; until then this process passes datagrams on to it.
        """
        ended: Deferred[None] = Deferred()
        self._ended.append(ended)
        return ended

    def _close(self) -> None:
        this: IPredecessor = self  # mypy takes a class and its interface for two things that are never the same
        if self._site.predecessor is this:
            self._site.predecessor = None
        if self._channel is not None:
            self._channel.close()

    def _channelLost(self) -> None:
        """Serve alone, since the predecessor has ended; first take over, if it was killed before this process had."""
        self._close()
        if self.takenOver:
            self._serveAlone()
        else:
            self._checkDeath(self._site.reactor.seconds() + DEATH_TIMEOUT)

    def _checkDeath(self, until: float) -> None:
        """Take over from a predecessor that has died without a word; leave if it lives: two must not read one port."""
        if self._server.stopping:
            return  # this process does not begin to serve any more
        if self._hasEnded(self.pid):
            self._takeOver()
            self._serveAlone()
        elif self._site.reactor.seconds() < until:
            self._site.reactor.callLater(DEATH_CHECK, self._checkDeath, until)
        else:
            _log.error("the process before this one goes on: nothing is taken over", event="disowned")
            self._leave()

    def _serveAlone(self) -> None:
        now = self._site.reactor.seconds()
        for group in self.groups:
            self._groupFreed(group, now)
        for each in self._server.addresses:
            if each.port is not None:
                each.port.resume(True)
        _log.info("the process before this one ({pid}) has ended", event="alone", pid=self.pid)
        self._serveWaiting(lambda group: True)
        for ended in self._ended:
            if not ended.called:
                ended.callback(None)
        self._removeAbandoned(now + DEATH_TIMEOUT)

    def _removeAbandoned(self, until: float) -> None:
        """
        Have the unfinished uploads removed that a predecessor has left which was killed.  While it is dying it may
        still lock them, though its end of the channel is closed.
        """
        if self._server.stopping:
            return  # the next start does it
        if self._hasEnded(self.pid) or self._site.reactor.seconds() >= until:
            self._server.removeAbandoned()
        else:
            self._site.reactor.callLater(DEATH_CHECK, self._removeAbandoned, until)

    # Messages from the predecessor.

    def _received(self, message: FromPredecessor, datagram: bytes) -> None:
        match message["say"]:
            case "state":
                self._addState(message)
            case "bar":
                self._site.bar(*message["bar"])
            case "read":
                self._takeOver()
            case "here":
                self._guests.setdefault(asAddress(message["at"]), set()).add(asPeer(message["peer"]))
            case "left":
                self._guests.get(asAddress(message["at"]), set()).discard(asPeer(message["peer"]))
            case "freed":
                self._castEnded(message)
            case "back":
                peer, local = asPeer(message["peer"]), asLocal(message["local"])
                self._serveReturned(asAddress(message["at"]), datagram, peer, local)
            case "sockets" | "begin":
                raise ValueError(f"{message['say']!r} after the start")
            case _:
                # A message of another version; the channel logs the error, and goes on.
                assert_never(message)

    def _addState(self, state: StateMessage) -> None:
        """Add a part of the predecessor's state, which comes in several messages before C{read}."""
        now = self._site.reactor.seconds()
        if "guests" in state and state["at"] is not None:
            self._guests.setdefault(asAddress(state["at"]), set()).update(map(asPeer, state["guests"]))
        groups = [asAddress(group) for group in state.get("groups", ())]
        self.groups.update(groups)
        resting = [(asAddress(group), seconds) for group, seconds in state.get("resting", ())]
        self._site.groupPool.adopt(groups, resting, now)
        for group, use, seconds in state.get("used", ()):
            self._used[asAddress(group)] = use, seconds
            self._restFixed(asAddress(group), now)

        self._site.machines.adopt(HeardMachine(*fields) for fields in state.get("machines", ()))

    def _takeOver(self) -> None:
        """Read the request ports from now on."""
        self.takenOver = True
        self._joinableUntil = self._site.reactor.seconds() + self._site.limits.drain
        for each in self._server.addresses:
            if each.port is not None:
                each.port.resume(False)
        self._server.startServing()
        self._send({"say": "serving"})
        _log.info("taken over from process {pid}, which finishes its transfers", event="taken-over", pid=self.pid)

    def _castEnded(self, message: FreedMessage) -> None:
        """Count down the casts of the predecessor to this group; free the group after the last."""
        ended = asAddress(message["group"])
        self.groups[ended] -= 1
        if self.groups[ended] <= 0:
            del self.groups[ended]
            self._groupFreed(ended, self._site.reactor.seconds())
            self._serveWaiting(lambda group: group == ended)

    def _groupFreed(self, group: Group, now: float) -> None:
        """Forget a group of the predecessor, and serve the requests that wait for its end."""
        self._site.groupPool.release(group, now)
        self._restFixed(group, now)

    def _restFixed(self, group: Group, now: float) -> None:
        if group in self._used:
            self._site.groupPool.quarantine(group, *self._used[group], now)

    def _serveReturned(self, address: BindAddress, datagram: bytes, peer: Peer, local: Local) -> None:
        """Serve a request that was given to the predecessor, and that it does not serve."""
        self._guests.get(address, set()).discard(peer)
        if len(self._returned) >= MOST_RETURNED:
            self._returned.clear()
        self._returned.add(peer)
        self._deliver(address, datagram, peer, local)

    # Messages to the predecessor.

    def serves(self, address: BindAddress, peer: Peer) -> bool:
        """Return whether datagrams of this peer to this request port are for the predecessor."""
        guests = self._guests.get(address)
        return guests is not None and peer in guests

    def forward(self, address: BindAddress, datagram: bytes, peer: Peer, local: Local) -> None:
        """Pass a datagram that came to this request port to the predecessor."""
        self._send({"say": "give", "at": address, "peer": peer, "local": localFields(local)}, datagram)

    def forwardUnreachable(self, address: BindAddress, peer: Peer) -> None:
        """Pass an ICMP error to the predecessor: the port of this peer is closed."""
        self._send({"say": "unreachable", "at": address, "peer": peer})

    def joinGroup(self, address: BindAddress, group: Group, datagram: bytes, peer: Peer, local: Local) -> None:
        """
        Pass a request to the predecessor, which sends to its group.

        Requests are passed for C{limits.drain} only, for otherwise the predecessor would never end.  Later requests,
        and those that may not join the group, wait here for its end; their clients hear its data meanwhile.
        """
        now = self._site.reactor.seconds()
        if peer not in self._returned and now < self._joinableUntil:
            guests = self._guests.setdefault(address, set())
            # The predecessor will send C{here}; what the peer sends before that must not be lost.
            if len(guests) < MOST_GUESTS:
                guests.add(peer)
            self.forward(address, datagram, peer, local)
            return
        _log.info("{peer} waits for the end of a group of {pid}", event="waits", peer=hostPort(peer), pid=self.pid)
        if len(self._waiting) < MOST_WAITING or (address, peer) in self._waiting:
            self._waiting[address, peer] = (now + WAITING_TIMEOUT, group, datagram, local)

    def _serveWaiting(self, ended: Callable[[Group], bool]) -> None:
        """Serve the requests that wait for a group which has ended."""
        now = self._site.reactor.seconds()
        for (address, peer), (until, group, datagram, local) in list(self._waiting.items()):
            if ended(group):
                del self._waiting[address, peer]
                if now < until:
                    self._deliver(address, datagram, peer, local)

    def _deliver(self, address: BindAddress, datagram: bytes, peer: Peer, local: Local) -> None:
        for each in self._server.addresses:
            if each.bindAddress == address:
                each.deliver(datagram, peer, local)
