"""
Heir: the process that takes over from this one, as seen from here (C{castd upgrade}).

It is started with the same command, and given the sockets that requests come to.  Not before it has read the service
file, opened what else it needs and said that it is ready, does this process stop reading.  Then it serves those who are
here to their end, and leaves.  If the heir dies in the meantime, all is as it was.  The other side is
L{castd.upgrade.predecessor}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from castd.request import Local, Peer
from castd.upgrade.channel import MOST_DESCRIPTORS, Channel, packed, pair, peerOf, unpacked

_log = Logger(namespace="castd")

#: Seconds that a heir may take to be ready; C{castd upgrade} is answered within L{castd.service.doors.PATIENCE}.
READY = 25.0
#: Seconds that it has to end, once it has said no.
LAST = 5.0
#: Seconds until this process leaves, so that an answer at the control socket gets out.
GRACE = 0.5
#: Entries in one message.
SHARE = 512


def _shares(what: str, found: Sequence[object], at: object = None) -> Iterator[dict[str, Any]]:
    """How it stands with many things, in messages that are not too long."""
    for start in range(0, len(found), SHARE):
        yield {"say": "state", "at": at, what: found[start : start + SHARE]}


class SuccessorPort:
    """
    The heir, as the transport at one port sees it; see L{castd.interfaces.IUpgradable.handOver}.
    """

    def __init__(self, say: Callable[..., None], at: tuple[str, int]) -> None:
        self._say = say
        self._at = at

    def here(self, peer: Peer) -> None:
        """What this peer sends to the port is for us."""
        self._say({"say": "here", "at": self._at, "peer": peer})

    def left(self, peer: Peer) -> None:
        """No more."""
        self._say({"say": "left", "at": self._at, "peer": peer})

    def freed(self, group: Peer) -> None:
        """A cast to this group has ended."""
        self._say({"say": "freed", "group": group})

    def back(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """A request that is to be served by the heir."""
        self._say({"say": "back", "at": self._at, "peer": peer, "local": packed(local)}, datagram)


class Successor:
    """
    One attempt to be succeeded.

    @ivar reads: it has taken over.
    """

    def __init__(self, server: Any, spawn: Callable[..., Any], leave: Callable[[], object], channel: Any = Channel):
        """
        @param server: a L{castd.service.service.Server}, running.
        @param spawn: C{spawn(end, exited)} starts the process with its end of the channel, and gives something with
            C{pid} and C{kill()}; C{exited(how)} is called when it has ended.
        @param leave: ends this process.
        @param channel: as L{Channel}.
        """
        self.reads = False
        self._server = server
        self._site = server.site
        self._spawn = spawn
        self._leave = leave
        self._makeChannel = channel
        self._faults: tuple[str, ...] = ()
        self._answer: Deferred[tuple[str, ...]] | None = None
        self._call: Any = None
        self._channel: Any = None
        self._child: Any = None
        self._confirmed: Deferred[None] = Deferred()

    def begin(self) -> Deferred[tuple[str, ...]]:
        """
        Start it.

        -> fires with the reasons why nothing has changed; none: it serves.
        """
        answer = self._answer = Deferred[tuple[str, ...]]()
        try:
            self._start()
        except OSError as error:
            self._fail((f"no process can be started: {error.strerror}",))
            return answer
        self._give(self._site.ports.boundSockets())
        self._channel.say({"say": "begin", "pid": os.getpid(), "doors": self._server.porch.places()})
        self._rest(READY, self._late)
        return answer

    def _start(self) -> None:
        ours, theirs = pair()
        self._channel = self._makeChannel(self._site.reactor, ours, self._heard, self._lost)
        try:
            self._child = self._spawn(theirs, self._exited)
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def _give(self, held: Any) -> None:
        for start in range(0, len(held), MOST_DESCRIPTORS):
            some = held[start : start + MOST_DESCRIPTORS]
            told = {"say": "sockets", "at": [(*at, ours) for at, _, ours in some]}
            self._channel.say(told, b"", [made.fileno() for _, made, _ in some])

    # How it goes wrong.

    def abandon(self) -> None:
        """This process stops, so nobody is to take over; one that has done so already goes on."""
        if not self.reads:
            self._faults = self._faults or ("castd is stopping",)
            self._child.kill()

    def _late(self) -> None:
        self._call = None
        self._faults = (f"the new process was not ready within {READY:g} s",)
        self._child.kill()

    def _exited(self, how: str) -> None:
        """The process has ended; what it has said last may still lie there."""
        self._channel.doRead()
        self._channel.close()
        if self.reads:
            self._takeBack()
            return
        self._fail(self._faults or (f"the new process {how} before it was ready; the log says why",))

    def _lost(self) -> None:
        """The channel is closed.  Not before it has ended, which a signal tells, do we read: never shall two."""
        if not self._server.ending:
            self._rest(LAST, self._child.kill)

    def _fail(self, faults: tuple[str, ...]) -> None:
        self._server.succession.successor = None
        self._rest()
        for nth, fault in enumerate(faults, 1):
            told = {"fault": fault, "nth": nth, "count": len(faults)}
            _log.error("no upgrade ({nth} of {count}): {fault}", event="refused-upgrade", **told)
        self._told(faults)

    def _told(self, faults: tuple[str, ...] = ()) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(faults)

    def _rest(self, seconds: float = 0.0, then: Callable[[], object] | None = None) -> None:
        """Wait no longer for what was waited for; for something else, perhaps."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None if then is None else self._site.reactor.callLater(seconds, then)

    # What it says.

    def _heard(self, told: dict[str, Any], datagram: bytes) -> None:
        _WORDS[told["say"]](self, told, datagram)

    def _refused(self, told: dict[str, Any], _: bytes) -> None:
        self._faults = tuple(told["faults"])

    def _ready(self, told: dict[str, Any], _: bytes) -> None:
        """It can do all: stop reading, and let it."""
        if self._server.stopping:
            self.abandon()
            return
        self._rest()
        self.reads = True
        claimed = {tuple(at) for at in told["claimed"]}
        drained = [self._handOver(each, each.at in claimed) for each in self._server.addresses]
        self._site.barring = lambda *bar: self._channel.say({"say": "bar", "bar": bar})
        DeferredList([*drained, self._confirmed]).addCallback(self._drained)
        self._server.succession.handOver().addCallback(self._go)

    def _handOver(self, each: Any, claimed: bool) -> Deferred[Any]:
        """What it has not claimed is gone from the service file: that port is ours to the end."""
        drained: Deferred[Any] = each.handOver(SuccessorPort(self._channel.say, each.at)) if claimed else each.drain()
        return drained

    def _go(self, _: object) -> None:
        """Tell it how things stand, the supervisor whom to watch, and go."""
        for told in self._state():
            self._channel.say(told)
        for bar in self._site.bars():
            self._channel.say({"say": "bar", "bar": bar})
        self._server.watch.notifier.notify(f"MAINPID={self._child.pid}")
        self._server.watch.pause()
        self._channel.say({"say": "read"})

    def _state(self) -> Iterator[dict[str, Any]]:
        groupPool, now = self._site.groupPool, self._site.reactor.seconds()
        for each in self._server.addresses:
            for what, found in (("guests", each.guests()), ("groups", each.groups())):
                yield from _shares(what, found, each.at)
        yield from _shares("resting", groupPool.quarantined(now))
        yield from _shares("used", groupPool.reservations(now))

    def _serving(self, told: dict[str, Any], _: bytes) -> None:
        _log.info("{pid} has taken over; this process ends what it has begun", event="handed-over", pid=self._child.pid)
        self._told()
        self._confirmed.callback(None)

    def _given(self, told: dict[str, Any], datagram: bytes) -> None:
        """A datagram for one who is served here."""
        for each in self._server.addresses:
            if each.at == tuple(told["at"]):
                each.transport.datagramFrom(datagram, peerOf(told["peer"]), unpacked(told["local"]))

    def _unreachable(self, told: dict[str, Any], _: bytes) -> None:
        for each in self._server.addresses:
            if each.at == tuple(told["at"]):
                each.transport.peerUnreachable(peerOf(told["peer"]))

    def _stop(self, told: dict[str, Any], _: bytes) -> None:
        """It was told to stop, and so we are."""
        self._end()

    # How it ends.

    def _drained(self, _: object) -> None:
        """Whoever was here has been served."""
        if self.reads and not self._server.ending:
            _log.info("whoever was here has been served", event="served-out")
            self._rest(GRACE, self._end)

    def _end(self) -> None:
        leave, self._leave = self._leave, lambda: None
        leave()

    def _takeBack(self) -> None:
        """It has died; we have the sockets still."""
        self.reads = False
        self._rest()
        self._server.succession.successor = None
        self._site.barring = None
        if not self._server.ending:
            _log.error(
                "{pid}, which had taken over, is no more; this process goes on", event="heirless", pid=self._child.pid
            )
            self._server.succession.takeBack()
        self._told(("the new process ended as soon as it had taken over; this one goes on",))


_WORDS: dict[str, Callable[[Successor, dict[str, Any], bytes], None]] = {
    "refused": Successor._refused,
    "ready": Successor._ready,
    "serving": Successor._serving,
    "give": Successor._given,
    "unreachable": Successor._unreachable,
    "stop": Successor._stop,
}
