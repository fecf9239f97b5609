"""
Hands over to the successor, in the running process; L{castd.upgrade} has the theory of operation.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar, assert_never

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import firstFaults, reasonOf
from castd.group_pool import Group
from castd.interfaces import ISuccessor
from castd.request import Local, Peer
from castd.upgrade.channel import LONGEST, MOST_DESCRIPTORS, ChannelToSuccessor, MakeChannel, socketPair
from castd.upgrade.messages import (
    BindAddress,
    FromPredecessor,
    FromSuccessor,
    GiveMessage,
    ReadyMessage,
    SocketsMessage,
    StateMessage,
    UnreachableMessage,
    asAddress,
    asLocal,
    asPeer,
    localFields,
)
from castd.upgrade.upgradable import UpgradableAddress, UpgradableServer

_log = Logger(namespace="castd")

#: The most seconds until a successor is ready; less than L{castd.service.admin.CONNECTION_TIMEOUT}, within which
#: C{castd upgrade} is answered.
READY_TIMEOUT = 25.0
#: The most seconds that the admin ports may take to close, and once more that a successor may take to serve when it may
#: read: nobody reads the request ports meanwhile.  All three together are less than C{CONNECTION_TIMEOUT}, too.
SERVING_TIMEOUT = 4.0
#: The most seconds that a successor may live once it has closed the channel.
EXIT_TIMEOUT = 5.0
#: Seconds until this process exits, so that the answer at the control socket is still sent.
GRACE = 0.5
#: The most entries in one message about the state; long ones are fewer.
ENTRIES = 512

_NOT_SERVING = f"the new process did not take over within {SERVING_TIMEOUT:g} s, though it was ready"

Entry = TypeVar("Entry")

#: A socket for the successor: its address, and whether castd has bound it, not a supervisor.
HeldSocket: TypeAlias = tuple[BindAddress, socket.socket, bool]


class Child(Protocol):
    """The process of the successor."""

    pid: int

    def kill(self) -> None:
        """Kill the process, if it has not ended."""


#: Starts the successor with its end of the channel.  The second argument is called when the successor has ended, with a
#: text that says how.
Spawn: TypeAlias = Callable[[socket.socket, Callable[[str], object]], Child]


@implementer(ISuccessor)
class SuccessorPort:
    """
    Tells the successor what changes at one request port: the L{ISuccessor} of the transport there.
    """

    def __init__(self, channel: ChannelToSuccessor, address: BindAddress) -> None:
        self._channel = channel
        self._address = address

    def peerJoined(self, peer: Peer) -> None:
        self._channel.send({"say": "here", "at": self._address, "peer": peer})

    def peerLeft(self, peer: Peer) -> None:
        self._channel.send({"say": "left", "at": self._address, "peer": peer})

    def groupEnded(self, group: Group) -> None:
        self._channel.send({"say": "freed", "group": group})

    def returnRequest(self, datagram: bytes, peer: Peer, local: Local) -> None:
        self._channel.send({"say": "back", "at": self._address, "peer": peer, "local": localFields(local)}, datagram)


class Successor:
    """
    One attempt to have another process take over.

    @ivar takenOver: this process has stopped reading for it.
    """

    def __init__(
        self,
        server: UpgradableServer,
        sockets: Callable[[], Sequence[HeldSocket]],
        spawn: Spawn,
        leave: Callable[[], object],
        makeChannel: MakeChannel[FromSuccessor, FromPredecessor],
    ) -> None:
        """
        @param server: the server of this process, running.
        @param sockets: -> the sockets of the request ports.
        @param leave: ends this process.
        """
        self.takenOver = False
        self._server = server
        self._site = server.site
        self._sockets = sockets
        self._spawn = spawn
        self._leave = leave
        self._makeChannel = makeChannel
        # The process has ended, or is killed: that it is ready, or serves, counts no more.
        self._ending = False
        self._over: Callable[[], object] = lambda: None
        self._faults: tuple[str, ...] = ()
        self._answer: Deferred[tuple[str, ...]] | None = None
        self._timer: IDelayedCall | None = None
        self._confirmed: Deferred[None] = Deferred()
        self._channel: ChannelToSuccessor
        self._child: Child

    def begin(self, over: Callable[[], object]) -> Deferred[tuple[str, ...]]:
        """
        Start the process of the successor.

        @param over: called if this process goes on serving: the attempt has failed, or the successor has died.
        @return: fires with the reasons why the attempt has failed; an empty tuple: the successor serves.
        """
        self._over = over
        answer = self._answer = Deferred[tuple[str, ...]]()
        try:
            self._start()
        except OSError as error:
            self._fail((f"no process can be started: {reasonOf(error)}",))
            return answer
        self._passSockets(self._sockets())
        self._channel.send({"say": "begin", "pid": os.getpid(), "doors": self._server.adminAddresses()})
        self._setTimer(READY_TIMEOUT, self._notReady)
        return answer

    def _start(self) -> None:
        ours, theirs = socketPair()
        self._channel = self._makeChannel(ours, self._received, self._channelLost)
        try:
            self._child = self._spawn(theirs, self._exited)
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def _passSockets(self, sockets: Sequence[HeldSocket]) -> None:
        for start in range(0, len(sockets), MOST_DESCRIPTORS):
            some = sockets[start : start + MOST_DESCRIPTORS]
            message: SocketsMessage = {"say": "sockets", "at": [(*address, own) for address, _, own in some]}
            self._channel.send(message, b"", [held.fileno() for _, held, _ in some])

    # When the upgrade fails.

    def abandon(self) -> None:
        """Kill the process of the successor, unless it has taken over: this server is being stopped."""
        if not self.takenOver:
            self._kill("castd is stopping")

    def _notReady(self) -> None:
        self._kill(f"the new process was not ready within {READY_TIMEOUT:g} s")

    def _notServing(self, why: str = _NOT_SERVING) -> None:
        if not self._server.stopping:
            self._kill(why)

    def _kill(self, why: str) -> None:
        """Kill the process of the successor, unless it has ended, and let L{_exited} end the attempt."""
        self._faults = self._faults or (why,)
        self._ending = True
        self._child.kill()

    def _exited(self, how: str) -> None:
        """Fail, or take the ports back: the process has ended.  Its last messages may still be unread."""
        self._ending = True
        self._channel.doRead()
        self._channel.close()
        if self.takenOver:
            self._takeBack()
            return
        self._fail(self._faults or (f"the new process {how} before it was ready; the log says why",))

    def _channelLost(self) -> None:
        """
        Wait for the end of the process, whose channel is closed: this process must not read before that.  It is not
        waited for where nobody reads meanwhile: it has never been told to, or never will.
        """
        if self._ending:
            return
        if self.takenOver and not self._confirmed.called:
            self._notServing("the new process ended, or the channel to it, before it had taken over; the log says why")
        elif not self._server.stopping:
            self._setTimer(EXIT_TIMEOUT, self._notEnded)

    def _notEnded(self) -> None:
        if not self._server.stopping:
            self._kill("the new process closed the channel to this one, and did not end")

    def _fail(self, faults: tuple[str, ...]) -> None:
        self._over()
        self._cancelTimer()
        self._refuse(faults)

    def _refuse(self, faults: tuple[str, ...]) -> None:
        """Log why there is no upgrade, and answer whoever has asked for it."""
        logRefused(faults)
        self._answerUpgrade(faults)

    def _answerUpgrade(self, faults: tuple[str, ...]) -> None:
        """Fire the Deferred of L{begin}, unless that is done."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(faults)

    def _setTimer(self, seconds: float, then: Callable[[], object]) -> None:
        """Set the only timer, in place of the one before."""
        self._cancelTimer()
        self._timer = self._site.reactor.callLater(seconds, then)

    def _cancelTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # Messages from the successor.

    def _received(self, message: FromSuccessor, datagram: bytes) -> None:
        match message["say"]:
            case "refused":
                self._faults = firstFaults(tuple(message["faults"]))
            case "ready":
                self._stopReading(message)
            case "serving":
                self._handedOver()
            case "give":
                self._deliver(message, datagram)
            case "unreachable":
                self._deliverUnreachable(message)
            case "stop":
                self._leaveOnce()
            case _:
                # A message of another version; the channel logs the error, and goes on.
                assert_never(message)

    def _stopReading(self, message: ReadyMessage) -> None:
        """Leave the request ports to the successor, which is ready."""
        if self._ending:
            return
        if self._server.draining:
            self.abandon()
            return
        claimed = {asAddress(address) for address in message["claimed"]}
        self._cancelTimer()
        self.takenOver = True
        maybeDeferred(self._leavePorts, claimed).addCallback(self._letRead).addErrback(self._handOverFailed)

    def _leavePorts(self, claimed: Container[BindAddress]) -> Deferred[None]:
        """Stop reading the request ports, and close the admin ports.  -> fires when these are closed."""
        drained = [self._handOver(each, each.bindAddress in claimed) for each in self._server.addresses]
        self._site.barring = lambda *bar: self._channel.send({"say": "bar", "bar": bar})
        DeferredList([*drained, self._confirmed]).addCallback(self._drained)
        closed = self._server.stopServing()
        self._setTimer(SERVING_TIMEOUT, self._notServing)
        return closed

    def _handOverFailed(self, failure: Failure) -> None:
        """Have this process read again: it has stopped, and cannot let the successor read."""
        _log.failure("the request ports could not be handed over", failure, event="fault")
        self._kill("a fault of castd or of a plugin, see the log")

    def _handOver(self, each: UpgradableAddress, claimed: bool) -> Deferred[None]:
        """Hand an address over; drain it here if the successor does not claim it, since its service file lacks it."""
        return each.handOver(SuccessorPort(self._channel, each.bindAddress)) if claimed else each.drain()

    def _letRead(self, _: object) -> None:
        """Send the state to the successor, let it read, and have the service manager watch it."""
        if self._ending:
            return  # the admin ports took a moment to close, and this process reads again, or will
        for state in self._state():
            self._channel.send(state)
        for bar in self._site.bars():
            self._channel.send({"say": "bar", "bar": bar})
        self._server.leaveWatch(self._child.pid)
        self._channel.send({"say": "read"})
        # Once more: what this process has just done may have taken long, and says nothing of the successor.
        self._setTimer(SERVING_TIMEOUT, self._notServing)

    def _state(self) -> Iterator[StateMessage]:
        """Return the state of this process, in messages that fit into a packet."""
        for each in self._server.addresses:
            for peers in _parts(each.requestPortPeers()):
                yield {"say": "state", "at": each.bindAddress, "guests": peers}
            for groups in _parts(each.groups()):
                yield {"say": "state", "at": each.bindAddress, "groups": groups}
        pool, now = self._site.groupPool, self._site.reactor.seconds()
        for resting in _parts(pool.quarantined(now)):
            yield {"say": "state", "at": None, "resting": resting}
        for used in _parts(pool.reservations(now)):
            yield {"say": "state", "at": None, "used": used}
        for machines in _parts(self._site.machines.heard()):
            yield {"say": "state", "at": None, "machines": machines}

    def _handedOver(self) -> None:
        if self._ending or not self.takenOver:
            return
        self._cancelTimer()
        _log.info(
            "process {pid} has taken over; this process finishes its transfers",
            event="handed-over",
            pid=self._child.pid,
        )
        self._answerUpgrade(())
        self._confirmed.callback(None)

    def _deliver(self, message: GiveMessage, datagram: bytes) -> None:
        """Receive a datagram of a peer that this process serves."""
        for each in self._server.addresses:
            if each.bindAddress == asAddress(message["at"]):
                each.deliver(datagram, asPeer(message["peer"]), asLocal(message["local"]))

    def _deliverUnreachable(self, message: UnreachableMessage) -> None:
        for each in self._server.addresses:
            if each.bindAddress == asAddress(message["at"]):
                each.deliverUnreachable(asPeer(message["peer"]))

    # The end of this process.

    def _drained(self, _: object) -> None:
        """Exit soon: all transfers of this process have ended."""
        if self.takenOver and not self._ending and not self._server.stopping:
            _log.info("all transfers of this process have ended: it exits", event="served-out")
            self._setTimer(GRACE, self._leaveOnce)

    def _leaveOnce(self) -> None:
        leave, self._leave = self._leave, lambda: None
        leave()

    def _takeBack(self) -> None:
        """Serve again, since the successor has died; this process still has the sockets."""
        self.takenOver = False
        self._cancelTimer()
        self._over()
        self._site.barring = None
        if not self._server.stopping:
            form = "process {pid}, which {was} taken over, has ended: this process serves again"
            was = "had" if self._confirmed.called else "was to have"
            _log.error(form, event="heirless", pid=self._child.pid, was=was)
            self._server.resumeServing()
        if self._answer is not None:
            self._refuse(self._faults or ("the new process ended before it had taken over; this one goes on",))


def _parts(found: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Return the entries, in parts for one message each, which fit into a packet unless a single entry is too long."""
    for start in range(0, len(found), ENTRIES):
        parts = [found[start : start + ENTRIES]]
        while parts:
            part = parts.pop()
            if len(part) > 1 and len(json.dumps(part)) > LONGEST // 2:
                middle = len(part) // 2
                parts += part[middle:], part[:middle]
            else:
                yield part


def logRefused(faults: tuple[str, ...]) -> None:
    """Log why no process takes over, a line for each fault."""
    for nth, fault in enumerate(faults, 1):
        told = {"fault": fault, "nth": nth, "count": len(faults)}
        _log.error("no upgrade ({nth} of {count}): {fault}", event="refused-upgrade", **told)
