"""
TFTP over real sockets: only what a virtual network could not prove.
"""

import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol

from castd.dialects.tftp import Dialect, Options
from castd.errors import NotFound
from castd.net.ports import Ports
from castd.options import Limits
from castd.packets.tftp import Data, buildAck, buildError, parse
from castd.server.listener import Listener
from castd.server.site import Site
from castd.testing import BytesContent
from tests.support.clients.tftp import F, data, isError, rrq

pytestmark = pytest.mark.loopback
reactor: Any = _reactor


class OneFile:
    """A source with one file."""

    def lookup(self, name: str, peer: object) -> BytesContent:
        if name != "f":
            raise NotFound
        return BytesContent(name, F)


class Client(DatagramProtocol):
    """Hands out what comes, one datagram for each wish."""

    noisy = False

    def __init__(self) -> None:
        self.came: list[tuple[bytes, Any]] = []
        self.waiting: Deferred[tuple[bytes, Any]] | None = None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self.waiting is None:
            self.came.append((datagram, addr))
        else:
            waiting, self.waiting = self.waiting, None
            waiting.callback((datagram, addr))

    def next(self) -> "Deferred[tuple[bytes, Any]]":
        """The next datagram, within five seconds."""
        wish: Deferred[tuple[bytes, Any]] = Deferred()
        if self.came:
            wish.callback(self.came.pop(0))
        else:
            self.waiting = wish
            wish.addTimeout(5, reactor)
        return wish


@pytest.fixture
def served() -> Iterator[int]:
    """A server on all IPv4 addresses of this machine.  -> its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    chance = random.Random(1)
    ports = Ports(reactor, chance)
    site = Site(reactor, chance, ports, Limits())
    site.open([OneFile()], (), None)
    options = Options(port=number)
    listener = Listener(site, "tftp", options, Dialect(options))
    port = ports.listen(number, listener)
    yield number
    listener.stop()
    port.stopListening()
    ports.closeIdle()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    port = reactor.listenUDP(0, client, "127.0.0.1")
    yield client
    port.stopListening()


@pytest_twisted.ensureDeferred
async def test_TC45_theSecondAddressForReal(served: int, client: Client) -> None:
    """A request to the second address of the host is answered from that address: by errors, by data, to the end."""
    assert client.transport is not None
    client.transport.write(rrq("missing"), ("127.0.0.2", served))
    answer, source = await client.next()
    assert isError(parse(answer), 1)
    assert source == ("127.0.0.2", served)
    client.transport.write(rrq(), ("127.0.0.2", served))
    for number in (1, 2, 3):
        block, tid = await client.next()
        while number > 1 and parse(block) == data(number - 1):
            block, tid = await client.next()  # repeated, as this machine is busy
        assert parse(block) == data(number)
        assert tid[0] == "127.0.0.2"
        client.transport.write(buildAck(number), tid)


@pytest_twisted.ensureDeferred
async def test_TC30_aForeignPortForReal(served: int, client: Client) -> None:
    """A foreign port that speaks to a transfer's own port is told ERROR 5 by real sockets too; it goes on."""
    assert client.transport is not None
    client.transport.write(rrq(), ("127.0.0.1", served))
    _, tid = await client.next()
    stranger = Client()
    port = reactor.listenUDP(0, stranger, "127.0.0.1")
    stranger.transport.write(buildAck(1), tid)  # type: ignore[union-attr]
    answer, source = await stranger.next()
    assert isError(parse(answer), 5)
    assert source == tid
    await port.stopListening()
    client.transport.write(buildAck(1), tid)
    block, _ = await client.next()
    assert isinstance(parse(block), Data)
    client.transport.write(buildError(0, "enough"), tid)
