"""
Writes: the client's half against the listener on a virtual network, and a full socket, a dead client, a failing disk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from castd.client.client import TransferError, send
from castd.client.urls import parseUrl
from castd.dialects import tftp
from castd.errors import Exists, Full
from castd.packets.tftp import Error, TftpRequest, buildAck, buildData, buildError, buildRequest, parse
from castd.receive.options import RequestedOptions
from castd.receive.upload import UploadReceiver
from castd.testing import MemorySink, Network, RecordingClient, memorySite, pattern
from castd.testing.content import MemoryUpload
from tests.support.link import summary
from tests.support.log import observed
from tests.support.stage import listener

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"
FILE = pattern(3000)
URL = parseUrl(f"tftp://{SERVER}/up")


class Site:
    """A server that takes writes, a client, and what was logged meanwhile."""

    def __init__(self, sink: MemorySink | None = None, single: bool = False, **faults: Any) -> None:
        self.network = Network(**faults)
        self.files: dict[str, bytes] = {}
        self.sink = sink or MemorySink(self.files)
        self.files = self.sink.files
        self.site = memorySite(self.network, uploads=self.sink)
        self.listener = listener(self.site, (tftp, {"port": 69, "singlePort": single}))
        self.site.ports.listen(69, self.listener)
        self.client = RecordingClient(self.network.host(CLIENT))

    def write(self, data: bytes = FILE, **requested: Any) -> Any:
        """Send a file with the client's half.  -> its report, or the failure."""
        host = self.network.host("10.0.0.8")
        results: list[Any] = []
        sent = send(
            host, URL, len(data), lambda start, length: data[start : start + length], RequestedOptions(**requested)
        )
        sent.addBoth(results.append)
        self.network.run(lambda: results, limit=600)
        return results[0]

    def ask(self, name: str = "up", **options: str) -> Any:
        """Ask by hand.  -> where the answer came from."""
        ask = TftpRequest(True, name, "octet", tuple(options.items()))
        self.client.send(buildRequest(ask), (SERVER, 69))
        return self.client.expect().source

    def heard(self) -> list[str]:
        return [summary(letter.datagram) for letter in self.client.take()]

    def left(self) -> int:
        """Return what is still open at the server: casts, lent ports, uploads, limits taken."""
        ports = len(self.network.host(SERVER).openPorts()) - 1
        return len(list(self.listener.casts())) + ports + len(self.sink.open) + self.site.admission.casts


@contextmanager
def logged() -> Any:
    """The events that the block logs; its faults too."""
    events: list[dict[str, Any]] = []
    with observed(events.append):
        yield events


def ends(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") in ("received", "refused")]


class TestWhole:
    @pytest.mark.parametrize("single", [False, True], ids=["own port", "single port"])
    @pytest.mark.parametrize("requested", [{}, {"blksize": 100, "windowsize": 4}], ids=["plain", "windows"])
    def test_delivered(self, requested: dict[str, int], single: bool) -> None:
        """A written file is there under its name when the client is told so, and nothing else is left."""
        site = Site(single=single)
        with logged() as events:
            report = site.write(**requested)
            assert (site.files, report.octets) == ({"up": FILE}, 3000)
            site.network.run(limit=10)
        (event,) = ends(events)
        told = [event[key] for key in ("event", "outcome", "write", "octets", "size", "name", "transport")]
        assert told == ["received", "done", True, 3000, 3000, "up", "tftp"]
        assert site.left() == 0

    @pytest.mark.parametrize("seed", range(3))
    def test_bad_line(self, seed: int) -> None:
        """A line that loses, doubles and reorders delivers the file unharmed."""
        site = Site(seed=seed, loss=0.1, duplicate=0.1, reorder=0.1)
        site.write(pattern(20_000), blksize=200, windowsize=8)
        assert site.files == {"up": pattern(20_000)}
        site.network.run(limit=60)
        assert site.left() == 0

    def test_last_ack_lost(self) -> None:
        """The last block that comes again while the server dallies gets its acknowledgement again."""
        site = Site()
        source = site.ask()
        site.client.take()
        site.client.send(buildData(1, b"all"), source)
        assert summary(site.client.expect().datagram) == "ACK 1"
        site.network.advance(2.0)
        site.client.send(buildData(1, b"all"), source)
        assert summary(site.client.expect().datagram) == "ACK 1"
        assert site.files == {"up": b"all"}

    def test_commit_first(self) -> None:
        """The last acknowledgement waits until the file is in its place."""
        committed: Deferred[None] = Deferred()
        site = Site(_Sink(commit=lambda: committed))
        source = site.ask()
        site.client.send(buildData(1, b"all"), source)
        site.network.advance(5.0)
        site.client.send(buildData(1, b"all"), source)
        site.network.advance(5.0)
        assert site.heard() == []
        committed.callback(None)
        assert summary(site.client.expect().datagram) == "ACK 1"


class _Upload(MemoryUpload):
    """An upload of which one thing goes wrong."""

    def commit(self) -> Any:
        super().commit()
        return self._sink.committed()

    def write(self, data: bytes) -> None:
        self._sink.written()
        super().write(data)


class _Sink(MemorySink):
    def __init__(self, commit: Callable[[], Any] = lambda: None, write: Callable[[], Any] = lambda: None) -> None:
        super().__init__({})
        self.committed, self.written = commit, write

    def begin(self, name: str, peer: Any, size: int | None) -> MemoryUpload:
        super().begin(name, peer, size)
        return _Upload(self, name)


def _raise(error: Exception) -> Any:
    raise error


class TestBroken:
    def test_silent(self) -> None:
        """A client that falls silent leaves nothing behind; the first it is told again is the last acknowledgement."""
        site = Site()
        source = site.ask()
        site.client.send(buildData(1, bytes(512)), source)
        with logged() as events:
            site.network.run(limit=60)
        assert set(site.heard()) == {"ACK 1"}
        assert (ends(events)[0]["outcome"], site.files, site.left()) == ("silent", {}, 0)

    def test_aborted(self) -> None:
        """The client's ERROR ends it without an answer, and nothing is left behind."""
        site = Site()
        source = site.ask()
        with logged() as events:
            site.client.send(buildError(0, "changed my mind"), source)
            site.network.run(limit=60)
        assert (site.heard(), ends(events)[0]["outcome"], site.files, site.left()) == ([], "aborted", {}, 0)

    def test_oversized(self) -> None:
        """More than the agreed block size is answered with ERROR 4, and nothing is stored."""
        site = Site()
        source = site.ask()
        with logged() as events:
            site.client.send(buildData(1, bytes(513)), source)
            assert summary(site.client.expect().datagram) == "ERROR 4"
        assert (ends(events)[0]["code"], site.files, site.left()) == (4, {}, 0)

    def test_disk_full(self) -> None:
        """A disk that is full in the middle is ERROR 3."""
        sink = MemorySink({}, largest=1000)
        site = Site(sink)
        failure = site.write(tsize=False)
        assert isinstance(failure.value, TransferError)
        assert (failure.value.code, site.files, site.left()) == (3, {}, 0)

    @pytest.mark.parametrize(
        ("error", "code"), [(Exists(), 6), (Full(), 3), (OSError(errno.EIO, "worn out"), 0)], ids=str
    )
    def test_commit_fails(self, error: Exception, code: int) -> None:
        """What cannot be put into its place is refused at the end: the client never takes it for stored."""
        site = Site(_Sink(commit=lambda: _raise(error)))
        with logged() as events:
            assert site.write().value.code == code
        assert site.left() == 0
        assert ends(events)[0].get("code", code) == code

    def test_commit_fails_too_late(self) -> None:
        """What cannot be put into its place after its client has restarted is nobody's fault."""
        committed: Deferred[None] = Deferred()
        site = Site(_Sink(commit=lambda: committed))
        first = site.ask()
        site.client.send(buildData(1, b"all"), first)
        site.network.advance(0.1)
        with logged() as events:
            site.client.send(buildError(0, "too slow for me"), first)
            site.network.advance(0.1)
            committed.errback(Exists())
        assert [event["outcome"] for event in ends(events)] == ["aborted"]
        assert [event for event in events if event.get("event") == "fault"] == []
        assert len(list(site.listener.casts())) == 0

    def test_fault(self) -> None:
        """A fault of ours is logged with its traceback and ends this upload only."""
        site = Site(_Sink(write=lambda: _raise(ZeroDivisionError())))
        with logged() as events:
            error = site.write().value
            assert (error.code, str(error)) == (0, "ERROR 0: Internal error")
        faults = [event for event in events if event.get("event") == "fault"]
        assert isinstance(faults[0]["log_failure"], Failure)
        assert (ends(events)[0]["outcome"], site.left()) == ("failed", 0)

    def test_stop(self) -> None:
        """A server that stops tells its clients, and leaves no half of a file."""
        site = Site()
        site.ask()
        site.listener.stop()
        assert parse(site.client.expect().datagram) == Error(0, "Server is stopping")
        assert (site.files, site.left()) == ({}, 0)

    def test_closed_port(self) -> None:
        """A client whose host twice says that its port is closed is gone."""
        site = Site()
        site.ask()
        site.client.port.stopListening()
        with logged() as events:
            site.network.run(limit=60)
        assert (ends(events)[0]["outcome"], site.left()) == ("closed", 0)
        assert ends(events)[0]["seconds"] < 5

    def test_malformed(self) -> None:
        """Noise from the right peer is counted and survived."""
        site = Site()
        source = site.ask()
        for noise in (b"", b"\0", b"\0\7xx", buildAck(1), b"\0\2up\0octet\0"):
            site.client.send(noise, source)
        site.client.send(buildData(1, b"all"), source)
        assert summary(site.client.expect().datagram) == "ACK 1"
        assert site.files == {"up": b"all"}

    def test_halfFails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A half that fails to say what it expects ends its upload as any other fault does, with one line."""
        monkeypatch.setattr(UploadReceiver, "expected", lambda half: _raise(RuntimeError("broken")))
        site = Site()
        with logged() as events:
            assert site.write().value.code == 0
        assert [event["event"] for event in events if event.get("event") in ("fault", "received")] == [
            "fault",
            "received",
        ]
        assert (site.files, site.left()) == ({}, 0)


class TestRestart:
    @pytest.mark.parametrize("single", [False, True], ids=["own port", "single port"])
    def test_repeated(self, single: bool) -> None:
        """The same request again gets the same answer from the same port."""
        site = Site(single=single)
        source = site.ask(blksize="100")
        assert site.ask(blksize="100") == source
        assert len(list(site.listener.casts())) == 1

    def test_restarted(self) -> None:
        """A client that asks again in mid-transfer has restarted: the old upload is dropped for one on a new port."""
        site = Site()
        first = site.ask()
        site.client.send(buildData(1, bytes(512)), first)
        site.network.advance(0.1)
        site.client.take()
        with logged() as events:
            second = site.ask()
        assert second != first
        assert ends(events)[0]["outcome"] == "replaced"
        site.client.send(buildData(1, b"all"), second)
        site.network.run(limit=60)
        assert (site.files, site.left()) == ({"up": b"all"}, 0)

    def test_restarted_on_one_port(self) -> None:
        """On the listening port, too, the new request is answered, and need not be repeated."""
        site = Site(single=True)
        source = site.ask()
        site.client.send(buildData(1, bytes(512)), source)
        site.network.advance(0.1)
        site.client.take()
        with logged() as events:
            assert site.ask() == source
        assert ends(events)[0]["outcome"] == "replaced"
        site.client.send(buildData(1, b"all"), source)
        site.network.run(limit=60)
        assert (site.files, site.left()) == ({"up": b"all"}, 0)

    @pytest.mark.parametrize("single", [False, True], ids=["own port", "single port"])
    def test_the_next_file(self, single: bool) -> None:
        """The next file, asked for from the same client port while the server dallies, is served at once, and kept."""
        site = Site(single=single)
        with logged() as events:
            for name in ("one", "two", "three"):
                site.client.send(buildData(1, name.encode()), site.ask(name))
                assert summary(site.client.expect().datagram) == "ACK 1"
            site.network.run(limit=60)
        assert [event["outcome"] for event in ends(events)] == ["done"] * 3
        assert (site.files, site.left()) == ({"one": b"one", "two": b"two", "three": b"three"}, 0)

    def test_once_more(self) -> None:
        """A file that is complete stays so when its client begins another write while the server dallies."""
        site = Site(MemorySink({}, policy="overwrite"))
        site.client.send(buildData(1, b"all"), site.ask())
        site.network.advance(0.1)
        site.client.take()
        with logged() as events:
            second = site.ask()
        assert ends(events)[0]["outcome"] == "done"
        site.client.send(buildError(0, "no"), second)
        site.network.advance(0.1)
        assert (site.files, site.left()) == ({"up": b"all"}, 0)


class TestStrangers:
    def test_told(self) -> None:
        """Another's packet at the port is answered with ERROR 5, and the upload goes on."""
        site = Site()
        source = site.ask()
        stranger = RecordingClient(site.network.host("10.0.0.66"))
        stranger.send(buildData(1, b"evil"), source)
        assert summary(stranger.expect().datagram) == "ERROR 5"
        site.client.send(buildData(1, b"good"), source)
        site.network.run(limit=60)
        assert site.files == {"up": b"good"}

    @pytest.mark.parametrize("datagram", [buildError(0, ""), b"\0", b"", b"\0\1f\0octet\0", b"\0\11"], ids=repr)
    def test_not_told(self, datagram: bytes) -> None:
        """An ERROR is never answered, nor is noise."""
        site = Site()
        source = site.ask()
        stranger = RecordingClient(site.network.host("10.0.0.66"))
        stranger.send(datagram, source)
        site.network.advance(1.0)
        assert stranger.take() == []


class TestSocket:
    def test_full(self) -> None:
        """What a full socket did not take is sent when there is room, and only the latest of it."""
        site = Site()
        source = site.ask()
        server = site.network.host(SERVER)
        server.room = 0
        site.client.send(buildData(1, bytes(512)), source)
        site.client.send(buildData(1, bytes(512)), source)
        site.network.advance(0.5)
        assert site.heard() == []
        (upload,) = site.listener.casts()
        assert upload.full > 3
        server.room = None
        site.network.advance(0.1)
        assert site.heard() == ["ACK 1"]

    def test_network_down(self) -> None:
        """A network that is down is, to the client, lost datagrams: the timer repeats when it is up again."""
        site = Site()
        source = site.ask()
        server = site.network.host(SERVER)
        server.errno = errno.ENETUNREACH
        with logged() as events:
            site.client.send(buildData(1, bytes(512)), source)
            site.network.advance(1.0)
        assert [event["event"] for event in events if "event" in event] == ["unsendable"]
        server.errno = 0
        site.network.advance(8.0)
        assert "ACK 1" in site.heard()
