"""
Read where the metrics are served: an address and a port, or an endpoint in Twisted's words.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory

from castd.options import HostPort, endpoint

#: The most octets in the path of a local socket (sun_path, unix(7)).
LONGEST_PATH = 107
#: The kinds of Twisted's endpoints whose C{listen} does nothing but ask the reactor for a port.
_KINDS = frozenset({"tcp", "tcp6", "ssl", "unix", "haproxy"})


def metricsEndpoint(reactor: object, text: str) -> IStreamServerEndpoint:
    """
    Return the endpoint that C{127.0.0.1:9147} or C{tcp:9147:interface=127.0.0.1} means.

    @raise ValueError: the text is neither.
    @raise ImportError: a library that the endpoint needs is not installed.
    """
    # Imported here: on import, twisted.internet.endpoints reads the variables of passed sockets from the environment,
    # and castd.net.activation has to read them first.
    from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint

    at = boundTo(text)
    if isinstance(at, HostPort) and not 0 <= at.port <= 65535:
        raise ValueError(_noPort(at.port))
    if isinstance(at, Path) and len(os.fsencode(at)) > LONGEST_PATH:
        raise ValueError(f"longer than {LONGEST_PATH} octets")
    try:
        host, port = endpoint(text)
    except ValueError:
        return _described(reactor, text)
    return (TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint)(reactor, port, interface=host)


def boundTo(text: str) -> HostPort | Path | None:
    """
    Return the address and port, or the path of the local socket, that an endpoint is bound to.

    @param text: as of L{metricsEndpoint}.
    @return: L{None}: that is not known, as of the endpoints that plugins bring.
    @raise ValueError: the text is no endpoint.
    @raise ImportError: a library that the endpoint needs is not installed.
    """
    with suppress(ValueError):
        return endpoint(text)
    reactor = _DryReactor()
    described = _described(reactor, text)
    if _kindOf(text) in _KINDS:
        described.listen(Factory())
    return reactor.at


def _described(reactor: object, text: str) -> IStreamServerEndpoint:
    """As L{metricsEndpoint}, for an endpoint in Twisted's words."""
    from twisted.internet.endpoints import serverFromString

    try:
        described: IStreamServerEndpoint = serverFromString(reactor, text)
    except ImportError:
        raise
    except Exception as error:
        # What reads an endpoint raises what it happens upon: TypeError for a key that it does not know.
        raise ValueError(_whyUnread(text, error)) from None
    return described


def _whyUnread(text: str, error: Exception) -> str:
    """Return why a text is no endpoint."""
    number = text.rpartition(":")[2]
    if _kindOf(text) in _KINDS:
        # Without the name of Twisted's function.
        return f"no endpoint of Twisted: {re.sub(r'^[A-Za-z_]+[(][)] ', '', str(error))}"
    if re.fullmatch("[0-9]+", number) and not 1 <= int(number) <= 65535:
        return _noPort(int(number))
    return "neither a numeric address (IPv6 in brackets) and a port nor an endpoint of Twisted"


def _noPort(number: int) -> str:
    return f"{number} is no port, which is from 1 to 65535"


def _kindOf(text: str) -> str:
    return text.partition(":")[0]


class _DryReactor:
    """
    Stands for the reactor: notes what an endpoint asks it for, and opens nothing.

    @ivar at: address and port, or the path of a local socket; L{None}: it has not been asked for any.
    """

    def __init__(self) -> None:
        self.at: HostPort | Path | None = None

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        """As L{IReactorTCP.listenTCP<twisted.internet.interfaces.IReactorTCP.listenTCP>}."""
        self.at = HostPort(interface or "0.0.0.0", port)

    def listenSSL(self, port: int, factory: object, context: object, backlog: int = 50, interface: str = "") -> None:
        """As L{IReactorSSL.listenSSL<twisted.internet.interfaces.IReactorSSL.listenSSL>}."""
        self.at = HostPort(interface or "0.0.0.0", port)

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> None:
        """As L{IReactorUNIX.listenUNIX<twisted.internet.interfaces.IReactorUNIX.listenUNIX>}."""
        self.at = Path(address)
