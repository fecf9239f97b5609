"""
How a request port says no: one ERROR at the most, or nothing, and a line in the log.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import Logger

from castd.errors import Declined, WireError
from castd.request import Local, Peer, Request, hostPort
from castd.server.room import PortDialect

_log = Logger(namespace="castd")


class Refusals:
    """
    The noes of one port.

    @ivar counts: datagrams that led to nothing, by reason.
    @ivar transport: the port, once there is one.
    """

    def __init__(self, site: Any) -> None:
        self._site = site
        self.counts: Counter[str] = Counter()
        self.transport: Any = None

    def refuse(self, entry: PortDialect, request: Request | None, peer: Peer, local: Local, error: Any) -> None:
        """One ERROR, never repeated; none for what was broadcast."""
        name = request.name if request is not None else "an unreadable request"
        _log.info(
            "{transport}: {peer} is refused {name}: {why}",
            event="refused",
            transport=entry.name,
            peer=hostPort(peer),
            name=name,
            code=error.code,
            why=str(error),
        )
        try:
            answer = entry.dialect.refuse(request, error)
        except Exception:
            _log.failure("{transport}: a refusal failed", event="fault", transport=entry.name)
            return
        if answer is None or local.broadcast:
            return
        if self._site.admission.mayError(peer[0], self._site.reactor.seconds()):
            self._say(answer, peer, local)
        else:
            self.counts["errors"] += 1

    def _say(self, datagram: bytes, peer: Peer, local: Local) -> None:
        try:
            self.transport.writeFrom(datagram, peer, local)
        except OSError:
            # As good as lost on the way: the client asks again.
            self.counts["unsent"] += 1

    def crowded(self, entry: PortDialect, request: Request, limit: str) -> None:
        """A limit is reached: no answer, the client asks again."""
        self.counts[limit] += 1
        _log.info(
            "{transport}: {peer} is not answered: {why} is reached",
            event="crowded",
            transport=entry.name,
            peer=hostPort(request.peer),
            why=limit,
        )

    def portless(self, entry: PortDialect, request: Request, error: Exception) -> None:
        """
        No port could be had, or none that reaches the peer.  As with any other limit it gets no answer, and asks again;
        an ERROR would make some clients give up.
        """
        self.counts["no port"] += 1
        _log.warn(
            "{transport}: {peer} is not answered: {why}",
            event="crowded",
            transport=entry.name,
            peer=hostPort(request.peer),
            why=f"no port for it: {error}",
        )

    def declined(self, entry: PortDialect, request: Request, error: Declined) -> None:
        """This dialect does not serve it; the next one may."""
        self.counts[error.reason] += 1
        _log.info(
            "{transport}: {peer} is not served here: {why}: {name}",
            event="declined",
            transport=entry.name,
            peer=hostPort(request.peer),
            name=request.name,
            why=error.reason,
        )

    def malformed(self, datagram: bytes, peer: Peer, error: WireError) -> None:
        """Counted; shown at debug level only, since anybody can send it."""
        self.counts["malformed"] += 1
        _log.debug(
            "{peer} sent {octets} octets that say nothing: {why}",
            event="malformed",
            peer=hostPort(peer),
            octets=len(datagram),
            why=str(error),
        )
