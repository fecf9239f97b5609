"""
The client against the real server half on a virtual network; and a few transfers over real sockets.
"""

from __future__ import annotations

import errno
import io
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.udp import Port
from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.client import schemes
from castd.client.client import defaultOptions, fetch, resolve, send
from castd.client.describe import LONGEST, describe
from castd.client.port import ReportingPort
from castd.client.report import Report, TransferError
from castd.client.schemes import Scheme
from castd.client.transfer import ClientTransfer
from castd.client.urls import Url, UrlError, parseUrl
from castd.dialects import multicast, tftp
from castd.interfaces import IGroupTransferHalf
from castd.net.ports import Ports
from castd.net.sockets import socketAddress
from castd.packets import mtftp, slam
from castd.packets.netascii import encode
from castd.packets.tftp import buildAck, buildData, buildError, buildOack, parseRequest
from castd.receive.base import OffsetBlock
from castd.receive.options import RequestedOptions
from castd.server.site import Site as ServerSite
from castd.testing import Network, ReceivedFile, RecordingClient, VirtualPort, memorySite, pattern
from tests.support.jobs import ROOT
from tests.support.link import summary
from tests.support.log import observed
from tests.support.quick import slowBut
from tests.support.stage import listener

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"


class Faulty(ReceivedFile):
    """A sink on a disk that has this fault."""

    def __init__(self, fault: OSError) -> None:
        super().__init__()
        self.fault = fault

    def write(self, data: bytes) -> None:
        raise self.fault


class Site:
    """A server with some files, and a machine for the client."""

    def __init__(
        self, files: dict[str, bytes] | None = None, six: bool = False, windowsize: int = 64, **faults: Any
    ) -> None:
        self.network = Network(**faults)
        self.host = self.network.host("fd00::9" if six else CLIENT)
        self.server = "fd00::1" if six else SERVER
        self.memory = memorySite(self.network, files=files, uploads=True, host=self.server)
        self.listener = listener(self.memory, (tftp, {"port": 69, "windowsize": windowsize}))
        self.memory.ports.listen(69, self.listener)
        self.sink = ReceivedFile()

    def url(self, rest: str) -> Url:
        return parseUrl(f"tftp://[{self.server}]/{rest}" if ":" in self.server else f"tftp://{self.server}/{rest}")

    def get(self, rest: str = "f", **more: Any) -> Any:
        """Return the report, or the exception."""
        return self.settle(fetch(self.host, self.url(rest), self.sink, **more))

    def put(self, data: bytes, rest: str = "f", **more: Any) -> Any:
        return self.settle(
            send(self.host, self.url(rest), len(data), lambda start, length: data[start : start + length], **more)
        )

    def settle(self, asked: Deferred[Any]) -> Any:
        results: list[Any] = []
        asked.addCallbacks(results.append, lambda failure: results.append(failure.value))
        self.network.run(lambda: results, limit=600)
        return results[0]

    def quiet(self) -> bool:
        """Nothing of the client is left open a while later."""
        self.network.run(limit=60)
        return not self.host.openPorts() and not self.network.getDelayedCalls()


class Scripted:
    """A server that says what a test tells it to: what C{answer(summary)} gives is sent from a port of its own."""

    def __init__(self, **answers: bytes) -> None:
        self.network = Network()
        self.listening = RecordingClient(self.network.host(SERVER), 69)
        self.transfer = RecordingClient(self.network.host(SERVER))
        self.host = self.network.host(CLIENT)
        self.sink = ReceivedFile()
        self.results: list[Any] = []

    def get(self, **more: Any) -> Any:
        asked = fetch(self.host, parseUrl(f"tftp://{SERVER}/f"), self.sink, **more)
        asked.addCallbacks(self.results.append, lambda failure: self.results.append(failure.value))
        self.asked = asked
        letter = self.listening.expect()
        self.client = letter.source
        return parseRequest(letter.datagram)

    def say(self, datagram: bytes, who: RecordingClient | None = None) -> list[str]:
        """Return what the client said to that before any timer of its own rang."""
        (who or self.transfer).send(datagram, self.client)
        self.network.advance(0.01)
        return [summary(letter.datagram) for letter in (who or self.transfer).take()]


class Seen:
    """A watcher that keeps what it sees."""

    def __init__(self) -> None:
        self.packets: list[tuple[bool, str]] = []
        self.notes: list[str] = []

    def packet(self, sent: bool, datagram: bytes, peer: Any) -> None:
        self.packets.append((sent, summary(datagram)))

    def note(self, text: str) -> None:
        self.notes.append(text)


class Deciding:
    """A server that answers each request as a test decides by its options; None: with silence."""

    def __init__(self, answer: Callable[[tuple[tuple[str, str], ...], bool], bytes | None]) -> None:
        self.network = Network()
        self.listening = RecordingClient(self.network.host(SERVER), 69)
        self.host = self.network.host(CLIENT)
        self.sink, self.seen = ReceivedFile(), Seen()
        self.asked: list[tuple[float, dict[str, str]]] = []
        self._answer = answer
        self.listening.datagramReceived = self._received  # type: ignore[method-assign]

    def _received(self, datagram: bytes, addr: Any) -> None:
        request = parseRequest(datagram)
        if request is None:
            return
        self.asked.append((self.network.seconds(), dict(request.options)))
        answer = self._answer(request.options, request.write)
        if answer is not None:
            RecordingClient(self.network.host(SERVER)).send(answer, addr)

    def get(self, url: str = f"tftp://{SERVER}/f", **more: Any) -> Any:
        return self._settle(fetch(self.host, parseUrl(url), self.sink, watcher=self.seen, **more))

    def put(self, **more: Any) -> Any:
        url = parseUrl(f"tftp://{SERVER}/f")
        return self._settle(send(self.host, url, 0, lambda start, length: b"", watcher=self.seen, **more))

    def _settle(self, asked: Deferred[Any]) -> Any:
        results: list[Any] = []
        asked.addCallbacks(results.append, lambda failure: results.append(failure.value))
        self.network.run(lambda: results, limit=200)
        return results[0]

    @property
    def requests(self) -> list[dict[str, str]]:
        """The options of each request that was not a repetition."""
        return [options for options, _ in groupby(options for _, options in self.asked)]


ASKED = {"blksize": "1468", "windowsize": "16", "tsize": "0"}


class TestOnceMore:
    @pytest.mark.parametrize("put", [False, True])
    @pytest.mark.parametrize("first", [None, buildError(0, "what?"), buildError(8, "no")], ids=["silence", "0", "8"])
    def test_withoutOptions(self, first: bytes | None, put: bool) -> None:
        """A server that can do nothing with options is asked once more without them, and the watcher is told."""
        plain = buildAck(0) if put else buildData(1, b"plain")
        server = Deciding(lambda options, write: first if options else plain)
        if put:
            # The last ACK is never sent here: what counts is that the server is asked again.
            server.put(policy=RetransmitPolicy(progressTimeout=8.0, maxRepeatsUnheard=None))
        else:
            server.get()
            assert bytes(server.sink.data) == b"plain"
        assert server.requests == [ASKED, {}]
        (note,) = server.seen.notes
        assert note.endswith(": once more without options")

    def test_time(self) -> None:
        """A server that is silent for good gets as long as the policy says, the last three seconds without options."""
        server = Deciding(lambda options, write: None)
        error = server.get()
        assert (str(error), server.network.seconds()) == (f"no answer from {SERVER} port 69", 31.0)
        assert [(round(at), bool(options)) for at, options in server.asked] == [
            *((each, True) for each in (0, 1, 3, 7, 15, 23)),
            (28, False),
            (29, False),
        ]

    def test_afterTheOack(self) -> None:
        """So is one whose blocks do not come through, which grants the options: small blocks may."""
        oack = buildOack((("blksize", "1468"),))
        server = Deciding(lambda options, write: oack if options else buildData(1, b"small"))
        server.get()
        assert bytes(server.sink.data) == b"small"

    @pytest.mark.parametrize("code", [1, 2, 3, 4])
    def test_refused(self, code: int) -> None:
        """A refusal that has nothing to do with options is final."""
        server = Deciding(lambda options, write: buildError(code, "no"))
        assert server.get().code == code
        assert server.put().code == code
        assert (server.requests, server.seen.notes) == ([ASKED], [])

    def test_inTheMiddle(self) -> None:
        """So is an ERROR 0 once blocks have come: the file would be written twice."""
        site = Scripted()
        site.get()
        site.say(buildOack((("windowsize", "1"),)))
        site.say(buildData(1, bytes(512)))
        site.say(buildError(0, "gone"))
        assert [each.code for each in site.results] == [0]
        assert site.listening.inbox == []

    def test_none(self) -> None:
        """A request without options is not sent twice, nor one of a protocol that has none."""
        server = Deciding(lambda options, write: None)
        server.get(requested=RequestedOptions(tsize=False))
        assert (server.requests, server.seen.notes, server.network.seconds()) == ([{}], [], 31.0)
        other = Deciding(lambda options, write: None)
        other.get(f"mtftp://{SERVER}:69/f")
        assert other.seen.notes == []

    def test_group(self) -> None:
        """A server that is silent to the option of a group is asked by plain TFTP."""
        server = Deciding(lambda options, write: None if options else buildData(1, b"plain"))
        server.get(f"tftm://{SERVER}/f")
        assert bytes(server.sink.data) == b"plain"


class TestClosedPort:
    @pytest.mark.parametrize("put", [False, True])
    def test_atOnce(self, put: bool) -> None:
        """A port at which no server listens is told at once, with its number, and not asked again."""
        site = Site()
        site.listener.transport.stopListening()
        error = site.put(b"x") if put else site.get()
        assert (str(error), error.outcome) == (f"port 69 of {SERVER} is closed: no server listens there", "closed")
        assert site.network.seconds() < 0.1
        assert site.quiet()

    def test_leaves(self) -> None:
        """So is a server whose transfer ends while it lasts."""
        site = Scripted()
        site.get()
        site.say(buildOack((("windowsize", "1"),)))
        port = site.transfer.port.address[1]
        site.transfer.port.stopListening()
        site.network.run(lambda: site.results, limit=5)
        assert str(site.results[0]) == f"port {port} of {SERVER} is closed: the server has left the transfer"

    def test_others(self) -> None:
        """What is said of other ports, or of none, ends nothing."""
        site = Scripted()
        site.get()
        (client,) = (each for each in site.host.openPorts())
        for peer in ((SERVER, 70), ("10.0.0.3", 69), ("10.0.0.3", 69, 0, 0)):
            client.unreachable(peer)
        site.say(buildData(1, b"x"))
        client.unreachable((SERVER, 69))
        client.unreachable(site.transfer.address)
        assert [type(each) for each in site.results] == [Report]
        assert bytes(site.sink.data) == b"x"


class TestBind:
    def test_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A group is joined in the network of the address that was chosen."""
        joined: list[str] = []

        def join(port: VirtualPort, group: str, interface: str = "") -> Deferred[None]:
            joined.append(interface)
            return real(port, group, interface)

        real = VirtualPort.joinGroup
        monkeypatch.setattr(VirtualPort, "joinGroup", join)
        site = Site({"f": pattern(2000)})
        site.memory.ports.listen(70, listener(site.memory, (multicast, {"port": 70, "gather": 0, "clients": "any"})))
        site.settle(fetch(site.host, parseUrl(f"tftm://{SERVER}:70/f"), site.sink, bind=CLIENT))
        assert (joined, site.sink.data) == ([CLIENT], pattern(2000))

    def test_otherErrors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error of another kind that comes while the port is read is not the end of the port."""

        def fails(port: Port) -> None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

        monkeypatch.setattr(Port, "doRead", fails)
        port = ReportingPort(reactor, DatagramProtocol(), "127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port.socket:
            port.doRead()


class TestWatcher:
    def test_group(self) -> None:
        """What comes from a group is seen as well."""
        site = Site({"f": pattern(2000)})
        made = listener(site.memory, (multicast, {"port": 70, "gather": 0, "clients": "any"}))
        site.memory.ports.listen(70, made)
        seen = Seen()
        site.settle(fetch(site.host, parseUrl(f"tftm://{SERVER}:70/f"), site.sink, watcher=seen))
        assert site.sink.data == pattern(2000)
        assert sum(text.startswith("DATA") for sent, text in seen.packets if not sent) >= 2

    @given(st.integers(0, 7), st.binary(max_size=600))
    def test_describe(self, kind: int, rest: bytes) -> None:
        """Whatever comes is described in one line that no terminal obeys, and that ends."""
        for datagram in (bytes((0, kind)) + rest, rest):
            text = describe(datagram)
            assert text.isprintable()
            assert 0 < len(text) <= LONGEST


class TestFetch:
    @pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
    @pytest.mark.parametrize("size", [0, 1, 1468, 100_000])
    def test_delivered(self, size: int, six: bool) -> None:
        """A file arrives as it is; by default in the largest blocks that Ethernet carries whole, and in windows."""
        site = Site({"f": pattern(size)}, six)
        report = site.get()
        assert site.sink.data == pattern(size)
        assert (report.octets, report.size or 0, report.repeats) == (size, size, 0)
        assert (report.blksize, report.windowsize) == (1448 if six else 1468, 16)
        assert site.quiet()

    @pytest.mark.parametrize("seed", range(3))
    def test_bad_line(self, seed: int) -> None:
        """A line that loses, doubles and reorders delivers the file unharmed."""
        site = Site({"f": pattern(300_000)}, seed=seed, loss=0.05, duplicate=0.05, reorder=0.05)
        site.get()
        assert site.sink.data == pattern(300_000)
        assert site.quiet()

    def test_wishes(self) -> None:
        """What is wished for is asked for, and the report says what was agreed on."""
        site = Site({"f": pattern(5000)})
        report = site.get(requested=RequestedOptions(blksize=1000, windowsize=3, rollover=0))
        assert (report.blksize, report.windowsize, report.blocks) == (1000, 3, 6)

    def test_progress(self) -> None:
        """Progress is told as it is made, with the size once it is known."""
        site, seen = Site({"f": pattern(4000)}), []
        site.get(progress=lambda octets, size: seen.append((octets, size)))
        assert seen[0] == (0, 4000)
        assert seen[-1] == (4000, 4000)
        assert seen == sorted(seen)

    def test_missing(self) -> None:
        """A refusal is told with its code and the server's words."""
        site = Site()
        error = site.get("nothing")
        assert (type(error), error.code, str(error)) == (TransferError, 1, "ERROR 1: File not found")
        assert site.quiet()

    def test_netascii(self) -> None:
        """In netascii mode a file comes back with its own line ends."""
        text = b"one\ntwo\r\nthree\r"
        transfer = Scripted()
        asked = fetch(
            transfer.host, parseUrl(f"tftp://{SERVER}/f;mode=netascii"), transfer.sink, RequestedOptions(tsize=False)
        )
        letter = transfer.listening.expect()
        transfer.client = letter.source
        assert parseRequest(letter.datagram).mode == "netascii"
        assert transfer.say(buildData(1, encode(text))) == ["ACK 1"]
        assert transfer.sink.data == text
        assert asked.called

    def test_nobody(self) -> None:
        """A server that never answers is given up after 31 s, and the message names it."""
        network = Network()
        site = Scripted()
        site.network, site.host = network, network.host(CLIENT)
        results: list[Any] = []
        asked = fetch(site.host, parseUrl("tftp://10.0.0.77:6969/f"), site.sink)
        asked.addErrback(lambda failure: results.append((str(failure.value), network.seconds())))
        network.run(lambda: results, limit=60)
        assert results[0] == ("no answer from 10.0.0.77 port 6969", 31.0)

    def test_fell_silent(self) -> None:
        """A server that falls silent in the middle is told apart from one that never answered."""
        server = Scripted()
        server.get()
        assert server.say(buildData(1, bytes(512))) == ["ACK 1"]
        server.network.run(lambda: server.results, limit=60)
        assert str(server.results[0]) == "the server fell silent"
        assert (server.results[0].outcome, server.results[0].code) == ("silent", None)

    def test_no_block(self) -> None:
        """A server whose answer comes and whose blocks do not may send blocks that are too large for the way."""
        server = Scripted()
        server.get()
        assert server.say(buildOack((("blksize", "1468"), ("tsize", "9000")))) == ["ACK 0"]
        server.network.run(lambda: server.results, limit=60)
        assert str(server.results[0]) == (
            "the server fell silent; if the way does not carry blocks of 1468 octets, ask for a smaller blksize"
        )

    def test_refused_options(self) -> None:
        """A server that answers options with ERROR 8 is asked once more without any (RFC 2347)."""
        server = Scripted()
        assert server.get().options
        assert server.say(buildError(8, "no options here")) == []
        letter = server.listening.expect()
        assert parseRequest(letter.datagram).options == ()
        assert letter.source != server.client
        server.client = letter.source
        assert server.say(buildData(1, b"all")) == ["ACK 1"]
        assert isinstance(server.results[0], Report)

    def test_bad_offer(self) -> None:
        """An OACK with what was not asked for is answered with ERROR 8."""
        server = Scripted()
        server.get()
        assert server.say(buildOack((("blksize", "9000"),))) == ["ERROR 8"]
        assert isinstance(server.results[0], TransferError)
        assert not server.host.openPorts()

    def test_cancel(self) -> None:
        """A cancelled transfer tells the server, once, and closes its port."""
        server = Scripted()
        server.get()
        server.say(buildData(1, bytes(512)))
        server.asked.cancel()
        server.network.advance(0.1)
        assert [summary(letter.datagram) for letter in server.transfer.take()] == ["ERROR 0"]
        assert not server.host.openPorts()
        assert server.network.getDelayedCalls() == []

    @pytest.mark.parametrize(("fault", "answer"), [(errno.ENOSPC, "ERROR 3"), (errno.EIO, "ERROR 0")])
    def test_disk(self, fault: int, answer: str) -> None:
        """When our own disk fails the server is told, so that it need not wait for us."""
        server = Scripted()
        server.sink = Faulty(OSError(fault, os.strerror(fault)))
        server.get()
        assert server.say(buildData(1, bytes(512))) == [answer]
        assert str(server.results[0]) == os.strerror(fault)


class TestPeers:
    def test_foreign_port(self) -> None:
        """Once the server has answered, its other ports are strangers: ERROR 5, and the transfer goes on."""
        server = Scripted()
        server.get()
        server.say(buildData(1, bytes(512)))
        other = RecordingClient(server.network.host(SERVER))
        assert server.say(buildData(2, b"forged"), other) == ["ERROR 5"]
        assert server.say(buildError(0, "forged"), other) == []
        assert server.say(buildData(2, b"end"))[-1] == "ACK 2"
        assert server.sink.data == bytes(512) + b"end"

    def test_foreign_host(self) -> None:
        """Before the first answer, too, only the host that was asked may give it."""
        server = Scripted()
        server.get()
        stranger = RecordingClient(server.network.host("10.0.0.66"))
        assert server.say(buildData(1, b"forged"), stranger) == ["ERROR 5"]
        assert server.say(buildData(1, b"true")) == ["ACK 1"]
        assert server.sink.data == b"true"

    def test_storm(self) -> None:
        """Strangers get a few answers, not one each for ever."""
        server = Scripted()
        server.get()
        stranger = RecordingClient(server.network.host("10.0.0.66"))
        for _ in range(100):
            stranger.send(buildData(1, b""), server.client)
        server.network.advance(0.1)
        assert len(stranger.take()) == 20

    def test_noise_is_no_answer(self) -> None:
        """Noise from the server's host does not fix its transfer id."""
        server = Scripted()
        server.get()
        assert server.say(b"\0\7", RecordingClient(server.network.host(SERVER))) == []
        assert server.say(buildData(1, b"all")) == ["ACK 1"]


class TestSend:
    @pytest.mark.parametrize("size", [0, 1468, 100_000])
    def test_delivered(self, size: int) -> None:
        """A file is stored as it is."""
        site = Site()
        report = site.put(pattern(size))
        assert site.memory.files == {"f": pattern(size)}
        assert report.octets == size
        assert site.quiet()

    def test_exists(self) -> None:
        """A refusal is told with its code."""
        site = Site({"f": b"old"})
        error = site.put(b"new")
        assert (error.code, site.memory.files) == (6, {"f": b"old"})

    def test_shrunk(self) -> None:
        """A file that shrinks while it is sent is not passed off as whole: the server is told, and keeps nothing."""
        site = Site()
        data = pattern(5000)
        asked = send(
            site.host,
            site.url("f"),
            9000,
            lambda start, length: data[start : start + length],
            RequestedOptions(blksize=512),
        )
        error = site.settle(asked)
        assert isinstance(error, TransferError)
        assert site.quiet()
        assert site.memory.files == {}

    @pytest.mark.parametrize("windowsize", [64, 256, 300, 1024])
    def test_largeWindow(self, windowsize: int) -> None:
        """A window goes out whole, however many blocks were granted."""
        site = Site(windowsize=windowsize)
        report = site.put(pattern(20_000), requested=RequestedOptions(blksize=8, windowsize=windowsize))
        assert site.memory.files == {"f": pattern(20_000)}
        assert (report.windowsize, report.repeats) == (windowsize, 0)


class TestSocket:
    def test_full(self) -> None:
        """What a full socket did not take of a window is sent when there is room."""
        site = Site()
        site.host.room = 3
        results: list[Any] = []
        data = pattern(50_000)
        asked = send(site.host, site.url("f"), len(data), lambda start, length: data[start : start + length])
        asked.addBoth(results.append)
        site.network.advance(0.5)
        assert not results
        site.host.room = None
        site.network.run(lambda: results, limit=60)
        assert site.memory.files == {"f": data}

    def test_no_way(self) -> None:
        """An address that cannot be sent to is told at once, not after half a minute."""
        site = Site()
        site.host.errno = errno.ENETUNREACH
        error = site.get()
        assert str(error) == f"cannot send to {SERVER}: {os.strerror(errno.ENETUNREACH)}"
        assert not site.host.openPorts()


@implementer(IGroupTransferHalf)
class Flood:
    """The half of a scheme whose server sends blocks of eight octets to a group, in any order."""

    group = ("239.255.7.7", 7007)
    tid = error = terms = None
    repeats = 0

    def __init__(self, count: int) -> None:
        self.outcome: str | None = None
        self.complete = False
        self.size = 8 * count
        self.missing = set(range(count))

    @property
    def blocks(self) -> int:
        return self.size // 8 - len(self.missing)

    def begin(self, now: float) -> list[bytes]:
        return [b"please"]

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        return None, []

    def receiveFromGroup(self, datagram: bytes, peer: Any, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        number = datagram[0]
        if number not in self.missing:
            return None, []
        self.missing.remove(number)
        self.complete = not self.missing
        return OffsetBlock(8 * number, datagram[1:]), []

    def stored(self, now: float) -> list[bytes]:
        self.outcome = "done"
        return [b"thanks"]

    def poll(self, now: float) -> list[bytes]:
        return []

    def deadline(self, now: float) -> float | None:
        return None


class TestSchemes:
    def test_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another scheme's half joins a group, hands out blocks in any order, and leaves the group at the end."""
        monkeypatch.setitem(schemes._SCHEMES, "flood", Scheme(700, lambda url, requested, policy: Flood(5)))
        network = Network()
        host, server, sink = network.host(CLIENT), RecordingClient(network.host(SERVER), 700), ReceivedFile()
        asked = fetch(host, parseUrl(f"flood://{SERVER}/f"), sink)
        assert server.expect().datagram == b"please"
        assert len(host.openPorts()) == 2
        for number in (3, 1, 4, 1, 0, 2):
            server.send(bytes([number]) + bytes([65 + number]) * 8, Flood.group)
        network.advance(0.1)
        assert sink.data == b"".join(bytes([65 + number]) * 8 for number in range(5))
        assert (asked.result.octets, server.expect().datagram) == (40, b"thanks")
        assert not host.openPorts()

    def test_anotherServerInTheGroup(self) -> None:
        """Of two servers in one group the one is heard that was asked: a block of MTFTP does not name its file."""
        network = Network()
        host, server, sink = network.host(CLIENT), RecordingClient(network.host(SERVER), 1759), ReceivedFile()
        other = RecordingClient(network.host("10.0.0.77"), 1759)
        asked = fetch(host, parseUrl(f"mtftp://{SERVER}/f"), sink)
        server.expect()
        for number, octets in ((1, 512), (2, 512), (3, 100)):
            other.send(buildData(number, b"B" * octets), mtftp.IPXE_GROUP)
            network.advance(0.01)
            server.send(buildData(number, b"A" * octets), mtftp.IPXE_GROUP)
            network.advance(0.01)
        network.advance(1)
        assert sink.data == b"A" * 1124
        assert asked.result.octets == 1124

    @pytest.mark.parametrize("url", [f"mtftp://{SERVER}/f", f"slam://{SERVER}"])
    def test_anotherAddressOfTheServer(self, url: str) -> None:
        """If only another address sends to the group the failure names it: the server may have several."""
        network, failures = Network(), list[Any]()
        other = RecordingClient(network.host("10.0.0.77"), 1759)
        asked = fetch(network.host(CLIENT), parseUrl(url), ReceivedFile()).addErrback(failures.append)
        group = mtftp.IPXE_GROUP if url.startswith("mtftp") else slam.IPXE_GROUP
        while not failures and network.seconds() < 100:
            other.send(buildData(1, b"B" * 512), group)
            network.advance(0.5)
        assert asked.called
        assert "10.0.0.77 sends to the group: ask there" in str(failures[0].value)

    def test_unknown(self) -> None:
        """A scheme that nobody knows is a fault of the URL, and the message tells what is known."""
        asked = fetch(Network().host(CLIENT), parseUrl("gopher://h/f"), ReceivedFile())
        failures: list[Any] = []
        asked.addErrback(failures.append)
        assert failures[0].check(UrlError)
        assert "tftp" in str(failures[0].value)

    def test_registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scheme is registered under a name that nobody has; the same one may be registered again."""
        monkeypatch.setattr(schemes, "_SCHEMES", dict(schemes._SCHEMES))
        flood = Scheme(700, lambda url, requested, policy: Flood(5))
        schemes.registerScheme("flood", flood)
        schemes.registerScheme("flood", flood)
        assert schemes.findScheme(parseUrl("flood://h/f")) is flood
        with pytest.raises(ValueError, match="tftp:// is registered already"):
            schemes.registerScheme("tftp", flood)

    def test_no_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scheme without writes says so."""
        monkeypatch.setitem(schemes._SCHEMES, "flood", Scheme(700, lambda url, requested, policy: Flood(5)))
        failures: list[Any] = []
        send(Network().host(CLIENT), parseUrl(f"flood://{SERVER}/f"), 0, lambda *_: b"").addErrback(failures.append)
        assert failures[0].check(UrlError)


class TestUrls:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("tftp://h/f", ("h", None, "f", "octet")),
            ("TFTP://h:6969/dir/f", ("h", 6969, "dir/f", "octet")),
            ("tftp://h//abs/f", ("h", None, "/abs/f", "octet")),
            ("tftp://10.0.0.1/f;mode=netascii", ("10.0.0.1", None, "f", "netascii")),
            ("tftp://h/f;MODE=OCTET", ("h", None, "f", "octet")),
            ("tftp://h/f;v=2", ("h", None, "f;v=2", "octet")),
            ("tftp://[fd00::1]:69/f", ("fd00::1", 69, "f", "octet")),
            ("tftp://[fe80::1%25eth0]/f", ("fe80::1%eth0", None, "f", "octet")),
            ("tftp://h/a%20b%3f", ("h", None, "a b?", "octet")),
            ("tftp://h/%ff", ("h", None, "\udcff", "octet")),
        ],
    )
    def test_parts(self, text: str, wanted: tuple[str, int | None, str, str]) -> None:
        """A URL is taken apart as RFC 3617 has it: the first slash is not part of the name, the mode comes last."""
        url = parseUrl(text)
        assert (url.host, url.port, url.name, url.mode) == wanted

    @pytest.mark.parametrize(
        "text", ["", "f", "tftp:/h/f", "tftp://", "tftp:///f", "tftp://u@h/f", "tftp://h:0/f", "tftp://h:99999/f", "tftp://[x]/f"]
    )  # fmt: skip
    def test_none(self, text: str) -> None:
        """What is no such URL is refused with a reason."""
        with pytest.raises(UrlError, match=r"."):
            parseUrl(text)

    @pytest.mark.parametrize("text", ["tftp://h", "tftp://h/", "tftp://h/;mode=octet", "tftp://h/a%00b"])
    def test_no_name(self, text: str) -> None:
        """A URL without a file can be parsed, but asking for its name says what is missing."""
        with pytest.raises(UrlError, match=r"."):
            _ = parseUrl(text).name

    @pytest.mark.parametrize("text", ["tftp://h/dir/", "tftp://h/..", "tftp://h/a/%2e%2e", "tftp://h/a%5c.."])
    def test_no_base(self, text: str) -> None:
        """A name that ends in no file name never becomes the name of a copy."""
        with pytest.raises(UrlError, match="-o"):
            _ = parseUrl(text).base

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Whatever the text is: a URL or UrlError."""
        try:
            url = parseUrl(text)
            assert url.host
            _ = url.base
        except UrlError:
            pass


class TestAnything:
    @given(st.lists(st.binary(max_size=40), max_size=20))
    def test_any_answers(self, answers: list[bytes]) -> None:
        """Whatever a server sends, the client ends with a report or a TransferError, and closes its port."""
        server = Scripted()
        server.get(requested=RequestedOptions(blksize=8, windowsize=2))
        for answer in answers:
            server.transfer.send(answer, server.client)
        server.network.run(lambda: server.results, limit=600)
        assert isinstance(server.results[0], (Report, TransferError))
        server.network.run(limit=60)
        assert not server.host.openPorts()


@pytest.mark.loopback
class TestLoopback:
    @pytest.fixture
    def served(self) -> Any:
        """The real server half on a real socket.  -> (its port, its files)."""
        network = Network()
        site = memorySite(network, files={"f": pattern(3_000_000)}, uploads=True)
        real = ServerSite(reactor, random.Random(1), Ports(reactor, random.Random(1)), site.limits)
        vars(site).update(vars(real))
        made = listener(site, (tftp, {"interface": "127.0.0.1"}))
        port = site.ports.listen(0, made, "127.0.0.1")
        yield port.getHost().port, site.files
        made.stop()
        port.stopListening()
        site.ports.closeIdle()

    @pytest.mark.parametrize(
        "requested",
        [
            defaultOptions,
            pytest.param(RequestedOptions(), marks=pytest.mark.slow),
            RequestedOptions(blksize=8192, windowsize=32),
        ],
        ids=["default", "plain", "big"],
    )
    @pytest_twisted.ensureDeferred
    async def test_fetch(self, served: Any, requested: Any) -> None:
        """A file comes through real sockets whole."""
        sink = ReceivedFile()
        url = parseUrl(f"tftp://127.0.0.1:{served[0]}/f")
        report = await fetch(reactor, url, sink, requested).addTimeout(30, reactor)
        await report.closed
        assert sink.data == pattern(3_000_000)

    @pytest.mark.slow
    @pytest_twisted.ensureDeferred
    async def test_fetchFromAGroup(self) -> None:
        """A group is joined where the server is, which need not be where the machine's default route leads."""
        site = memorySite(Network(), files={"f": pattern(300_000)})
        vars(site).update(vars(ServerSite(reactor, random.Random(1), Ports(reactor, random.Random(1)), site.limits)))
        options = {"interface": "127.0.0.1", "clients": "any", "gather": 0, "groups": "239.255.99.0/24"}
        made = listener(site, (multicast, options))
        port = site.ports.listen(0, made, "127.0.0.1")
        events: list[dict[str, Any]] = []
        sink = ReceivedFile()
        with observed(events.append):
            url = parseUrl(f"tftm://127.0.0.1:{port.getHost().port}/f")
            report = await fetch(reactor, url, sink).addTimeout(30, reactor)
            await report.closed
        made.stop()
        port.stopListening()
        site.ports.closeIdle()
        assert sink.data == pattern(300_000)
        assert [event["event"] for event in events if event.get("event") in ("opened", "moved")] == ["opened"]

    @pytest_twisted.ensureDeferred
    async def test_send(self, served: Any) -> None:
        """A file goes through real sockets whole."""
        port, files = served
        file = io.BytesIO(pattern(500_000))

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        url = parseUrl(f"tftp://127.0.0.1:{port}/up")
        report = await send(reactor, url, 500_000, read).addTimeout(30, reactor)
        await report.closed
        assert files["up"] == pattern(500_000)

    def test_zone(self) -> None:
        """An address goes to the kernel with the number of its zone, which Python takes from the text of no address."""
        index = socket.if_nametoindex("lo")
        assert socketAddress("fe80::1%lo", 69) == ("fe80::1", 69, 0, index)
        assert socketAddress("fe80::1%7", 69) == ("fe80::1", 69, 0, 7)
        assert socketAddress("fd00::1", 69) == ("fd00::1", 69)
        site = Site()
        error = site.settle(fetch(site.host, parseUrl("tftp://[fe80::1%25nothing]/f"), site.sink))
        assert str(error) == "cannot send to fe80::1%nothing: no interface with this name"
        error = site.settle(fetch(site.host, parseUrl("tftp://[FE80::1]/f"), site.sink))
        wanted = "a link-local address needs the zone of its interface, as fe80::1%eth0"
        assert str(error).lower() == f"cannot send to fe80::1: {wanted}"

    @pytest_twisted.ensureDeferred
    async def test_fragments(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the client sends may be fragmented on its way, as what the server sends may."""
        found: list[int] = []

        def note(transfer: ClientTransfer, *args: Any) -> Any:
            found.append(transfer.transport.socket.getsockopt(socket.IPPROTO_IP, 10))  # type: ignore[attr-defined]
            return real(transfer, *args)

        real = ClientTransfer.finish
        monkeypatch.setattr(ClientTransfer, "finish", note)
        url = parseUrl(f"tftp://127.0.0.1:{served[0]}/nothing")
        with pytest.raises(TransferError, match="ERROR 1"):
            await fetch(reactor, url, ReceivedFile()).addTimeout(30, reactor)
        assert found == [0]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("put", "kind"),
        slowBut(
            lambda put, kind: (put, kind) == (False, "epoll"),
            product([False, True], ["epoll", "poll", "select", "asyncio"]),
        ),
    )
    def test_closedPort(self, tmp_path: Path, put: bool, kind: str) -> None:
        """The kernel's word that a port is closed comes through each reactor, at once."""
        (tmp_path / "file").write_bytes(b"x")
        code = f"from twisted.internet import {kind}reactor; {kind}reactor.install()\n"
        code += "from castd.cli.main import main; main()"
        # Nobody listens at this one; another might be taken by somebody else meanwhile.
        url = "tftp://127.0.0.1:1/file"
        words = ["put", "file", url] if put else ["get", url]
        ran = subprocess.run(
            [sys.executable, "-c", code, *words, "--timeout", "60"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (ran.returncode, "is closed: no server listens there" in ran.stderr) == (1, True), ran.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest_twisted.ensureDeferred
    async def test_othersPortsClosed(self, host: str) -> None:
        """A stranger whose port is closed when the answer arrives ends nothing: the port stays open, and reads on."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sink = ReceivedFile()
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind((host, 0))
            server.settimeout(10)
            where = f"[{host}]" if ":" in host else host
            url = parseUrl(f"tftp://{where}:{server.getsockname()[1]}/f")
            asked = fetch(reactor, url, sink, RequestedOptions(tsize=False))
            client = (await deferToThread(server.recvfrom, 600))[1]
            server.sendto(buildData(1, bytes(512)), client)
            await deferToThread(server.recvfrom, 600)
            for _ in range(3):
                with socket.socket(family, socket.SOCK_DGRAM) as stranger:
                    stranger.bind((host, 0))
                    stranger.sendto(buildData(2, b"no"), client)
                await deferLater(reactor, 0.02, lambda: None)
            server.sendto(buildData(2, b"yes"), client)
            report = await asked.addTimeout(10, reactor)
            await report.closed
        assert sink.data == bytes(512) + b"yes"

    @pytest_twisted.ensureDeferred
    async def test_bind(self) -> None:
        """A request leaves from the address that was chosen."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(10)
            url = parseUrl(f"tftp://127.0.0.1:{server.getsockname()[1]}/f")
            asked = fetch(reactor, url, ReceivedFile(), bind="127.0.0.77")
            _, client = await deferToThread(server.recvfrom, 600)
            server.sendto(buildError(1, "no"), client)
            with pytest.raises(TransferError):
                await asked.addTimeout(10, reactor)
        assert client[0] == "127.0.0.77"

    @pytest_twisted.ensureDeferred
    async def test_resolve(self) -> None:
        """A host name is resolved; one that does not exist is told."""
        assert await resolve(reactor, "localhost") in ("127.0.0.1", "::1")
        with pytest.raises(TransferError, match="no such host"):
            await resolve(reactor, "nothing.invalid")
