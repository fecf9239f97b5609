"""
Answers requests for one text by HTTP; the text may take a while to make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

_log = Logger(namespace="castd")

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
