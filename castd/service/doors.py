"""
The operator's ways in: the page of metrics, and the control socket.  A door that stays where it is stays open over a
reload.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from castd.errors import Unavailable
from castd.options import endpoint

_log = Logger(namespace="castd")

Answer: TypeAlias = Callable[[], Any]

#: Conversations at the control socket at once.
MOST = 16
#: Octets of a local socket's path (sun_path, unix(7)).
LONGEST = 107
#: Seconds that one may last.
PATIENCE = 30.0


def place(reactor: Any, text: str) -> Any:
    """
    -> the endpoint that C{127.0.0.1:9147} or C{tcp:9147:interface=127.0.0.1} means.

    @raise ValueError: neither.
    """
    # Not before: this module takes what the environment says of passed sockets (castd.net.activation) as soon as it is
    # imported.
    from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString

    try:
        host, port = endpoint(text)
    except ValueError:
        return serverFromString(reactor, text)
    return (TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint)(reactor, port, interface=host)


class AdminPort(Service):
    """
    One stream port.

    @ivar where: what the service file says; doors at the same place are the same.
    """

    def __init__(self, where: str, complain: str, at: Any, factory: Any) -> None:
        """@param complain: file, line and path of what asks for it."""
        self.where = where
        self._complain = complain
        self._at = at
        self._factory = factory
        self._port: Any = None

    def bind(self) -> None:
        """@raise Unavailable: it cannot be opened."""
        found: list[Any] = []
        # Whoever may speak to a socket of a file may do everything; chmod would come a moment too late.
        mask = os.umask(0o177)
        try:
            self._at.listen(self._factory).addBoth(found.append)
        finally:
            os.umask(mask)
        (result,) = found
        if isinstance(result, Failure):
            error = result.value
            why = error.socketError if isinstance(error, CannotListenError) else error
            raise Unavailable(f"{self._complain}: {self.where}: {getattr(why, 'strerror', None) or why}")
        self._port = result

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        if self._port is None:
            self.bind()

    def startService(self) -> None:
        super().startService()
        if self._port is None:
            self.bind()

    def close(self) -> Any:
        """Not done by a stop: how the draining goes is to be seen here.  -> as C{IListeningPort.stopListening}."""
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


class ControlConnection(LineOnlyReceiver):
    """One question and its answer, which may take a while; a line of JSON each."""

    delimiter = b"\n"
    MAX_LENGTH = 4096
    transport: Any
    factory: Any

    def __init__(self, reactor: Any, answers: Mapping[str, Answer]) -> None:
        self._reactor = reactor
        self._answers = answers
        self._call: Any = None

    def connectionMade(self) -> None:
        self._call = self._reactor.callLater(PATIENCE, self.transport.abortConnection)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.gone()
        if self._call is not None and self._call.active():
            self._call.cancel()

    def lineReceived(self, line: bytes) -> None:
        try:
            asked = json.loads(line)
            question = self._answers[asked["do"]]
        except (ValueError, KeyError, TypeError):
            self._say({"error": f'ask for one of {", ".join(self._answers)}, as {{"do": "status"}}'})
            return
        maybeDeferred(question).addErrback(self._failed).addCallback(self._say)

    def _failed(self, failure: Failure) -> dict[str, str]:
        _log.failure("a question at the control socket failed", failure, event="fault")
        return {"error": "a fault of castd, see its log"}

    def _say(self, answer: Any) -> None:
        self.transport.write(json.dumps(answer).encode() + self.delimiter)
        self.transport.loseConnection()


class ControlFactory(Factory):
    """Answers at the control socket."""

    noisy = False

    def __init__(self, reactor: Any, answers: Mapping[str, Answer]) -> None:
        self._reactor = reactor
        self._answers = answers
        self._here = 0

    def buildProtocol(self, addr: Any) -> ControlConnection | None:
        if self._here >= MOST:
            return None
        self._here += 1
        made = ControlConnection(self._reactor, self._answers)
        made.factory = self
        return made

    def gone(self) -> None:
        """A conversation has ended."""
        self._here -= 1


def controlSocket(reactor: Any, path: str) -> Any:
    """-> its endpoint; a socket that a server left behind which is no more does not keep it from opening."""
    from twisted.internet.endpoints import UNIXServerEndpoint

    return UNIXServerEndpoint(reactor, path, mode=0o600, wantPID=True)
