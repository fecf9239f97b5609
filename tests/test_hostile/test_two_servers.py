"""
No exchange between two servers goes on: what one says draws one ERROR at most, and an ERROR draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

from castd.client.client import fetch
from castd.client.urls import parseUrl
from castd.dialects import mtftp, multicast, sbroadcast, slam, tftp
from castd.packets.tftp import buildAck
from castd.request import Peer
from castd.testing import MemorySink, Network, ReceivedFile, RecordingClient, SentDatagram, memorySite, pattern
from tests.support.clients.tftp import rrq, wrq
from tests.support.hostile import PORTS as HOSTILE
from tests.support.hostile import proxy
from tests.support.log import observed
from tests.support.noise import REQUESTS
from tests.support.quick import slowBut
from tests.support.stage import listener

pytestmark = pytest.mark.fuzz

ONE, OTHER, CLIENT = "10.0.0.1", "10.0.0.2", "10.0.0.9"
#: The request ports of each server: tftp, multicast and sbroadcast share one.
PORTS = {"tftp": 69, "single-port": 6969, "mtftp": 1759, "slam": 10000, "proxydhcp": 4011}
FILES = {"f": pattern(1300), "large": pattern(40_000)}
ERROR = b"\0\5"


class Pair:
    """
    Two servers with every transport, and a client of both.

    @ivar network: what carries their datagrams, under any address.
    """

    def __init__(self) -> None:
        self.network = Network(seed=1, latency=0.0002)
        for host in (ONE, OTHER):
            site = memorySite(
                self.network, host=f"{host}/24", files=dict(FILES), uploads=MemorySink({}, "overwrite", largest=50_000)
            )
            for spoken in (
                ((sbroadcast, {"subnets": ["10.0.0.0/24"]}), (multicast, {}), (tftp, {})),
                ((tftp, {"singlePort": True, "port": PORTS["single-port"]}),),
                ((mtftp, {"port": PORTS["mtftp"], "files": {"large": "239.255.1.1:3001"}}),),
                ((slam, {"port": PORTS["slam"], "file": "large"}),),
            ):
                each = listener(site, *spoken)
                site.ports.listen(each.port, each)
            for service in proxy(site, host):
                site.ports.listen(service.port, service, service.interface)
        self._seen = 0

    def forge(self, datagram: bytes, source: Peer, destination: Peer) -> None:
        """Let a server get a datagram from any address."""
        port = self.network.bound[destination]
        self.network.callLater(0, port.receive, datagram, source, port.locals[destination[0]])

    def said(self) -> list[SentDatagram]:
        """Return what has been sent since the last call."""
        capture = self.network.capture or []
        new, self._seen = capture[self._seen :], len(capture)
        return new

    def between(self, seconds: float = 60.0) -> list[SentDatagram]:
        """Let time pass.  -> what the servers have sent to each other, nothing of it in the last third of the time."""
        self.said()
        began = self.network.seconds()
        self.network.advance(seconds)
        found = [each for each in self.said() if {each.source[0], each.destination[0]} == {ONE, OTHER}]
        assert [each for each in found if each.time > began + seconds * 2 / 3] == [], "it goes on"
        return found

    def transfer(self, server: str, kind: str) -> tuple[RecordingClient, Peer]:
        """Begin a transfer that waits for its client.  -> the client, and the server's port."""
        client = RecordingClient(self.network.host(f"{CLIENT}/24"))
        request = {
            "read": rrq("f", blksize=512),
            "plain": rrq("f"),
            "write": wrq("up", blksize=512),
            "multicast": rrq("f", blksize=512, multicast=""),
            "sbroadcast": rrq("f", blksize=512, sbroadcast="255.255.255.0"),
        }[kind]
        client.send(request, (server, PORTS["tftp"]))
        return client, client.expect().source


#: The transfers at whose ports strangers may knock.
TRANSFERS = ("read", "plain", "write", "multicast", "sbroadcast")


@contextmanager
def standing() -> Iterator[Pair]:
    """Return two servers that log no fault."""
    events: list[dict[str, Any]] = []
    with observed(events.append):
        yield Pair()
    assert [event for event in events if "log_failure" in event or event.get("event") == "fault"] == []


@cache
def spoken() -> dict[bytes, str]:
    """Return all that a server says to clients of each transport, and to strangers, with the port that it came from."""
    found: dict[bytes, str] = {}
    with standing() as pair:
        machine = pair.network.host(f"{CLIENT}/24")
        urls = [f"tftp://{ONE}/f", f"tftp://{ONE}:6969/f", f"tftm://{ONE}/f", f"mtftp://{ONE}/large", f"slam://{ONE}/"]
        ended: list[Any] = []
        for url in urls:
            fetch(machine, parseUrl(url), ReceivedFile()).addBoth(ended.append)
        pair.network.run(lambda: len(ended) == len(urls), limit=60)
        for kind in TRANSFERS:
            client, port = pair.transfer(ONE, kind)
            client.send(buildAck(0), port)
            pair.network.advance(0.01)
            client.send(buildAck(9), port)
            RecordingClient(machine).send(buildAck(1), port)
        for request in (rrq("absent"), wrq("f"), b"\0\1f", b"\0\1f\0mail\0"):
            RecordingClient(machine).send(request, (ONE, PORTS["tftp"]))
        pair.network.advance(60)
        for each in pair.said():
            if each.source[0] == ONE:
                kinds = [kind for kind, port in PORTS.items() if port == each.source[1]]
                found.setdefault(each.datagram, kinds[0] if kinds else "transfer")
    short = {}
    for datagram, kind in found.items():
        # Of blocks that differ in their numbers only, a few are enough.
        alike = sum(1 for other in short if other[:2] == datagram[:2] and len(other) == len(datagram))
        if alike < 3:
            short[datagram] = kind
    return short


def isError(datagram: bytes) -> bool:
    return datagram[:2] == ERROR


def test_allIsSpoken() -> None:
    """What is delivered below has every kind that a server says."""
    opcodes = {datagram[:2] for datagram in spoken()}
    assert {b"\0\3", b"\0\4", b"\0\5", b"\0\6"} <= opcodes
    assert any(b"multicast" in datagram for datagram in spoken())
    assert any(b"sbroadcast" in datagram for datagram in spoken())
    assert {"tftp", "mtftp", "slam", "transfer"} <= {*spoken().values()}
    lengths = {len(datagram) for datagram, kind in spoken().items() if kind == "slam"}
    assert min(lengths) <= 21 < max(lengths)


def strangers(pair: Pair) -> dict[str, Peer]:
    """Return ports of the other server: those that requests come to, and those of transfers."""
    ports = {kind: (OTHER, port) for kind, port in PORTS.items()}
    return ports | {f"its {kind}": pair.transfer(OTHER, kind)[1] for kind in TRANSFERS}


@pytest.mark.slow
@pytest.mark.parametrize("target", slowBut(lambda target: target in ("tftp", "mtftp"), (*PORTS, *TRANSFERS)))
def test_whatOneSays(target: str) -> None:
    """
    Each datagram of a server, delivered to each port of the other in the name of each port of the first, draws one
    ERROR at most; an ERROR draws nothing.
    """
    for datagram, kind in spoken().items():
        with standing() as pair:
            for name, source in strangers(pair).items():
                client, port = pair.transfer(ONE, target) if target in TRANSFERS else (None, (ONE, PORTS[target]))
                pair.forge(datagram, source, port)
                found = pair.between()
                where = (kind, datagram[:40], name)
                assert all(isError(each.datagram) for each in found), where
                assert len(found) <= (not isError(datagram)), where
                if client is not None:
                    client.port.stopListening()


@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in ("tftp", "mtftp"), REQUESTS))
def test_requests(kind: str) -> None:
    """A request in the name of a port of the other server is answered as any: there one ERROR at most says no to it."""
    for request in REQUESTS[kind]:
        with standing() as pair:
            for name, source in strangers(pair).items():
                pair.forge(request, source, (ONE, HOSTILE[kind]))
                found = pair.between()
                answers = [each.datagram for each in found if each.source[0] == OTHER]
                assert all(map(isError, answers)), (request, name)
                assert len(answers) <= 1, (request, name)
                assert len(found) - len(answers) <= 8, (request, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single-port", "mtftp"])
def test_bothWays(kind: str) -> None:
    """
    Two servers that were made to take each other for clients, by two requests, are soon silent: neither sends the other
    a file.
    """
    port = PORTS[kind]
    for request in REQUESTS["tftp"]:
        for other in REQUESTS["tftp"]:
            with standing() as pair:
                pair.forge(request, (OTHER, port), (ONE, port))
                pair.forge(other, (ONE, port), (OTHER, port))
                found = pair.between()
                assert len(found) <= 2 * 8, (request, other, found)
