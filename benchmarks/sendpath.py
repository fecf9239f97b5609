"""Measures what one block costs to send, by several ways: C{python benchmarks/sendpath.py}.

The packets go over loopback to a socket that nobody reads and whose buffer is full, so only the sender's half is seen;
the multicast ones to a group without members. A file of 16 MiB is sent in windows of 64 blocks of 1468 octets; the ways
take turns, and each round is compared with the plain way in the same round.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import click

BLOCK, WINDOW, STRIDE = 1468, 64, 1472
BLOCKS = 16 * 2**20 // BLOCK // WINDOW * WINDOW
CALL = 44  # packets of 1472: GSO takes 65,507 octets a call
UDP_SEGMENT = getattr(socket, "UDP_SEGMENT", 103)
GROUP = ("239.255.77.77", 7077)

Way = Callable[[socket.socket, int], None]
"""Send every block of the file open at a descriptor through a connected socket."""


def plain(out: socket.socket, file: int) -> None:
    """One pread, one concatenation and one send for each block."""
    for number in range(BLOCKS):
        out.send(struct.pack(">HH", 3, number + 1 & 0xFFFF) + os.pread(file, BLOCK, number * BLOCK))


def gathered(out: socket.socket, file: int) -> None:
    """One pread for each window, header and payload put together by the kernel, a sendmsg for each block."""
    for first in range(0, BLOCKS, WINDOW):
        window = memoryview(os.pread(file, BLOCK * WINDOW, first * BLOCK))
        for place in range(WINDOW):
            header = struct.pack(">HH", 3, first + place + 1 & 0xFFFF)
            out.sendmsg((header, window[place * BLOCK : (place + 1) * BLOCK]))


class Gaps:
    """A buffer for one window with room for the headers between the payloads."""

    def __init__(self) -> None:
        self.buffer = bytearray(STRIDE * WINDOW)
        self.view = memoryview(self.buffer)
        self.buffer[1::STRIDE] = b"\x03" * WINDOW
        self._payloads = [self.view[at + 4 : at + STRIDE] for at in range(0, len(self.buffer), STRIDE)]

    def fill(self, file: int, first: int) -> None:
        """Read the window that begins with block C{first} (from 0) and number it."""
        os.preadv(file, self._payloads, first * BLOCK)
        wire = [number & 0xFFFF for number in range(first + 1, first + WINDOW + 1)]
        self.buffer[2::STRIDE] = bytes([number >> 8 for number in wire])
        self.buffer[3::STRIDE] = bytes([number & 0xFF for number in wire])


def spaced(out: socket.socket, file: int) -> None:
    """One preadv around the headers for each window, a send for each block."""
    gaps = Gaps()
    for first in range(0, BLOCKS, WINDOW):
        gaps.fill(file, first)
        for at in range(0, STRIDE * WINDOW, STRIDE):
            out.send(gaps.view[at : at + STRIDE])


def segmented(out: socket.socket, file: int) -> None:
    """The same preadv, the window handed to the kernel in calls that it cuts into packets (GSO)."""
    gaps = Gaps()
    out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, STRIDE)
    for first in range(0, BLOCKS, WINDOW):
        gaps.fill(file, first)
        out.send(gaps.view[: STRIDE * CALL])
        out.send(gaps.view[STRIDE * CALL :])


def image(file: int) -> bytearray:
    """@return: the whole file as it is on the wire."""
    whole, gaps = bytearray(STRIDE * BLOCKS), Gaps()
    for first in range(0, BLOCKS, WINDOW):
        gaps.fill(file, first)
        whole[first * STRIDE : (first + WINDOW) * STRIDE] = gaps.buffer
    return whole


def laid(whole: bytearray) -> Way:
    """A wire image made before, a slice of it sent for each block."""

    def send(out: socket.socket, file: int) -> None:
        view = memoryview(whole)
        for at in range(0, len(view), STRIDE):
            out.send(view[at : at + STRIDE])

    return send


def laidSegmented(whole: bytearray) -> Way:
    """A wire image made before, handed to the kernel in calls that it cuts into packets (GSO)."""

    def send(out: socket.socket, file: int) -> None:
        view = memoryview(whole)
        out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, STRIDE)
        for at in range(0, len(view), STRIDE * CALL):
            out.send(view[at : at + STRIDE * CALL])

    return send


@contextmanager
def unread() -> Iterator[socket.socket]:
    """@return: a socket connected to one that is never read and already full."""
    with socket.socket(type=socket.SOCK_DGRAM) as sink, socket.socket(type=socket.SOCK_DGRAM) as out:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sink.bind(("127.0.0.1", 0))
        out.connect(sink.getsockname())
        for _ in range(8):
            out.send(bytes(STRIDE))
        yield out


@contextmanager
def unheard() -> Iterator[socket.socket]:
    """@return: a socket connected to a group that nobody has joined."""
    with socket.socket(type=socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        out.connect(GROUP)
        yield out


@click.command()
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--cpu", default=0, show_default=True, help="The CPU to stay on.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write every round.")
def main(rounds: int, cpu: int, out: Path | None) -> None:
    """Print what each way costs, as a part of the plain way's cost and in microseconds."""
    os.sched_setaffinity(0, {cpu})
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        file.write(os.urandom(BLOCKS * BLOCK))
        whole = image(file.fileno())
        ways = {
            "pread + send for each block": (unread, plain),
            "pread a window, sendmsg(header, payload)": (unread, gathered),
            "preadv a window, send for each block": (unread, spaced),
            "preadv a window, UDP_SEGMENT": (unread, segmented),
            "wire image, send for each block": (unread, laid(whole)),
            "wire image, UDP_SEGMENT": (unread, laidSegmented(whole)),
            "multicast: wire image, send for each block": (unheard, laid(whole)),
            "multicast: wire image, UDP_SEGMENT": (unheard, laidSegmented(whole)),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, (opened, way) in ways.items():
                with opened() as sender:
                    before = time.process_time()
                    way(sender, file.fileno())
                    if number:  # the first round warms up
                        took[name].append((time.process_time() - before) / BLOCKS * 1e6)
    if out is not None:
        out.write_text(json.dumps(took))
    base = took[next(iter(ways))]
    click.echo("| way | µs a block | part of the first |\n|---|---|---|")
    for name, costs in took.items():
        parts = [cost / reference for cost, reference in zip(costs, base, strict=True)]
        click.echo(f"| {name} | {median(costs):.2f} | {median(parts):.2f} ({min(parts):.2f} to {max(parts):.2f}) |")


if __name__ == "__main__":
    main()
