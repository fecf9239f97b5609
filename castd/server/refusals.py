"""
Refuse requests: each gets at most one ERROR, and has one event in the log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

from twisted.logger import Logger

from castd.errors import Declined, NotFound, Refused, Unanswered, reasonOf
from castd.interfaces import ISite
from castd.request import Local, Peer, Request
from castd.server import eventlog
from castd.server.port_dialect import PortDialect

_log = Logger(namespace="castd")

#: The event of a request that found no file waits so many seconds at the most for a name that was probably meant.
NEAREST_TIME = 1.0

#: Errors by which the system says that nothing can be sent from here to the peer: no port would help.
_NO_WAY = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.ENODEV}
)

#: Sends a datagram to a peer from a local address; returns whether it was sent.
Send: TypeAlias = Callable[[bytes, Peer, Local], bool]


class Refusals:
    """
    Refuses the requests that one request port does not serve.
    """

    def __init__(self, site: ISite, send: Send) -> None:
        """@param send: sends from the request port."""
        self._site = site
        self._send = send

    # Those that get an ERROR.

    def refuseRequest(self, entry: PortDialect, request: Request, error: Refused) -> None:
        """Refuse a request; or do not answer it, as the client is to ask again."""
        if isinstance(error, Unanswered):
            eventlog.unanswered(entry.name, request, str(error))
        elif isinstance(error, NotFound) and not request.write:
            self._refuseName(entry, request, error)
        else:
            self.refuse(entry, request, request.peer, request.local, error)

    def _refuseName(self, entry: PortDialect, request: Request, error: NotFound) -> None:
        """Refuse a request for which there is no file; its event has the name that was probably meant."""
        limit = self._answer(entry, request, request.peer, request.local, error)
        near = self._site.findNear(request)
        if near is None:
            eventlog.refused(entry.name, request, request.peer, error, limit=limit)
            return
        if not near.called:
            near.addTimeout(NEAREST_TIME, self._site.reactor)
        near.addErrback(lambda _: None)
        near.addCallback(lambda found: eventlog.refused(entry.name, request, request.peer, error, found, limit))

    def refuse(self, entry: PortDialect, request: Request | None, peer: Peer, local: Local, error: Refused) -> None:
        """Log a refusal and send one ERROR, which is never repeated; a broadcast request gets none."""
        limit = self._answer(entry, request, peer, local, error)
        eventlog.refused(entry.name, request, peer, error, limit=limit)

    def _answer(self, entry: PortDialect, request: Request | None, peer: Peer, local: Local, error: Refused) -> str:
        """Send one ERROR, if there is one for this.  -> the key of the limit that forbids it; C{""}: none does."""
        try:
            answer = entry.dialect.refuse(request, error)
        except BaseException:
            _log.failure("{transport}: a refusal failed", event="fault", transport=entry.name)
            return ""
        if answer is None or local.broadcast:
            return ""
        if limit := self._site.admission.errorLimit(peer[0], self._site.reactor.seconds(), local.networks):
            return limit
        # If it could not be sent it counts as lost on the way: the client asks again.
        if self._send(answer, peer, local) and self._site.recorder is not None:
            self._site.recorder.answered(answer, peer, local)
        return ""

    # Those that get no answer.

    def crowded(self, entry: PortDialect, request: Request, limit: str) -> None:
        """Log that a limit is reached: there is no answer, the client asks again."""
        eventlog.unanswered(entry.name, request, limit, limit)

    def noPort(self, entry: PortDialect, request: Request, error: Exception) -> None:
        """
        Log that no port could be opened for a request.  As with other limits there is no answer, and the client asks
        again; some clients would give up at an ERROR.
        """
        cause: object = getattr(error, "socketError", error)
        if isinstance(cause, OSError) and cause.errno in _NO_WAY:
            eventlog.unanswered(entry.name, request, "there is no way to it", unsent=reasonOf(cause))
        else:
            eventlog.unanswered(entry.name, request, f"no port for it: {error}")

    def declined(self, entry: PortDialect, request: Request, error: Declined) -> None:
        """Log that this dialect does not serve a request; the next dialect may."""
        _log.info(
            "{transport}: {peer} is not served here: {why}: {name}",
            event="declined",
            transport=entry.name,
            why=error.reason,
            **eventlog.requestFields(request),
        )
