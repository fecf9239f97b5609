"""
Serves the metrics address by HTTP: few connections at once, and texts that may take a while to make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from castd.net.connections import ConnectionLimit

_log = Logger(namespace="castd")

#: The most connections to the metrics address at once; beyond, the oldest that asks nothing leaves for the next one.
MOST_CONNECTIONS = 32
#: Status and body of an answer.
Answer: TypeAlias = tuple[int, bytes]


class TextResource(Resource):
    """One text."""

    isLeaf = True

    def __init__(self, answer: Callable[[], Deferred[Answer]], kind: str = "text/plain; charset=utf-8") -> None:
        """
        @param answer: -> a Deferred of status and body.
        @param kind: the content type.
        """
        Resource.__init__(self)
        self._answer = answer
        self._kind = kind

    def render_GET(self, request: Request) -> int:
        gone = request.notifyFinish()
        gone.addErrback(lambda _: None)
        maybeDeferred(self._answer).addErrback(_failed).addCallback(self._send, request, gone)
        return NOT_DONE_YET

    def _send(self, answer: Answer, request: Request, gone: Deferred[None]) -> None:
        if gone.called:
            return
        status, body = answer
        request.setResponseCode(status)
        request.setHeader("content-type", self._kind if status == 200 else "text/plain; charset=utf-8")
        request.setHeader("content-length", str(len(body)))
        request.write(body)
        request.finish()


def _failed(failure: Failure) -> Answer:
    """Log a fault, which else would leave the client without an answer."""
    _log.failure("an answer by HTTP failed", failure, event="fault")
    return 500, b"a fault of castd, see its log\n"


class PageConnection(HTTPChannel):
    """
    One connection to the metrics address.

    @ivar answering: see L{LimitedConnection<castd.net.connections.LimitedConnection>}.
    """

    transport: ITCPTransport
    site: MetricsSite
    answering = False

    def connectionMade(self) -> None:
        HTTPChannel.connectionMade(self)
        self.site.limit.enter(self)

    def allHeadersReceived(self) -> None:
        """
        Refuse a request that is to have a body, as none needs one: Twisted would put it on the disk, however large, and
        read it as a form while all transfers wait.
        """
        if self.length == 0:
            HTTPChannel.allHeadersReceived(self)
            return
        self.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        HTTPChannel.loseConnection(self)

    def allContentReceived(self) -> None:
        """Answer a request, as the whole of it has come: headers that never end are no request."""
        self.answering = True
        HTTPChannel.allContentReceived(self)

    def requestDone(self, request: object) -> None:
        """End a request that was answered."""
        self.answering = False
        HTTPChannel.requestDone(self, request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.limit.leave(self)
        HTTPChannel.connectionLost(self, reason)


class MetricsSite(Site):
    """
    Serves a resource without logging requests, which come every few seconds.

    @ivar limit: counts the connections.
    """

    noisy = False
    protocol = PageConnection  # type: ignore[assignment]

    def __init__(self, page: Resource) -> None:
        Site.__init__(self, page)
        self.limit = ConnectionLimit(MOST_CONNECTIONS)

    def acceptableProtocols(self) -> list[bytes]:
        """Return the only protocol that L{PageConnection} speaks, for an endpoint with TLS."""
        return [b"http/1.1"]

    def log(self, request: object) -> None:
        """Log nothing."""
