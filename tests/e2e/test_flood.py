"""A flood of forged requests at a running castd: who was served before is answered in time, and transfers go on."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from castd.testing import pattern
from tests.support.lab.castd import Alone, Peer, served

pytestmark = [pytest.mark.e2e, pytest.mark.root]

RATE = 5000
CASTS = 200
SMALL, LARGE = pattern(5000), pattern(500_000)
#: The port that all forged requests come from: a socket that nobody reads, so that no host says that it is closed.
SINK = 33_333


@pytest.fixture
def castd(tmp_path: Path) -> Iterator[Alone]:
    (tmp_path / "small").write_bytes(SMALL)
    (tmp_path / "large").write_bytes(LARGE)
    limits = {"casts": CASTS, "receivers": CASTS, "drain": "1 s"}
    made = Alone(tmp_path, {"content": [{"directory": {"path": str(tmp_path)}}], "limits": limits})
    yield made
    made.end()


def forged(number: int, port: int) -> bytes:
    """Return an IP packet with a request for a file, in a name that nobody else has."""
    asked = b"\0\1small\0octet\0blksize\x001000\0timeout\x00255\0"
    datagram = struct.pack("!4H", SINK, port, 8 + len(asked), 0) + asked
    source = bytes([127, 7 + (number >> 16) % 100, number >> 8 & 255, number & 255])
    return struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(datagram), 0, 0, 64, 17, 0, source, b"\x7f\0\0\1") + datagram


@contextmanager
def flooding(port: int) -> Iterator[list[int]]:
    """Forge requests meanwhile.  -> how many, in a list."""
    over, sent = threading.Event(), [0]
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sink.bind(("0.0.0.0", SINK))

    def flood() -> None:
        began = time.monotonic()
        while not over.wait(0.002):
            while sent[0] < (time.monotonic() - began) * RATE:
                raw.sendto(forged(sent[0], port), ("127.0.0.1", 0))
                sent[0] += 1

    sender = threading.Thread(target=flood)
    with sink, raw:
        sender.start()
        try:
            yield sent
        finally:
            over.set()
            sender.join()


def honest(castd: Alone, name: str, host: str = "127.0.0.3") -> Peer:
    """Return a client that is about to ask from this address."""
    peer = Peer(castd.port, name)
    peer.socket.bind((host, 0))
    return peer


def firstAnswer(peer: Peer, seconds: float) -> float:
    """Drive a client until it has its first octets.  -> seconds that this took."""
    began = time.monotonic()
    while not peer.data and not peer.error:
        assert time.monotonic() < began + seconds, "no answer"
        select.select([peer.socket], [], [], 0.01)
        peer.turn()
    return time.monotonic() - began


def test_flood(castd: Alone) -> None:
    """
    While five thousand requests a second are forged, each in another name, a client that was served before gets its
    first octets within seconds each time, and a transfer that runs goes on to its end.
    """
    served([honest(castd, "small")])
    running = honest(castd, "large")
    firstAnswer(running, 5)
    with flooding(castd.port) as sent:
        time.sleep(1)
        times = []
        for _ in range(5):
            client = honest(castd, "small")
            times.append(firstAnswer(client, 30))
            served([client], 30)
            assert bytes(client.data) == SMALL
        served([running], 40)
        assert bytes(running.data) == LARGE
    assert sent[0] > 2000
    assert sorted(times)[2] < 2
