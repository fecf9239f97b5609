"""
Forges datagrams in a hall, counts what they draw, and times an honest client beside them.

As a program (C{python -m tests.support.lab.forging}) it sends datagrams in forged names, at a rate, until it is ended.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from castd.errors import WireError
from castd.packets.slam import FIRST_LIST, SlamData, buildList, isHeader, parseData
from castd.packets.tftp import buildAck
from tests.support.jobs import ROOT, Job
from tests.support.lab.hall import Hall, Host, ip

_NEW_NETWORK = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
#: Octets of the headers of IPv4 and UDP.
HEADERS = 28
#: Where what is sent to forged names ends.
ATTACKER = "10.77.0.250"
#: Forged names are of these networks, with so many bits for the host: far away, and of the server's own link.
STRANGERS, NEIGHBOURS = ("100.64.0.0", 22), ("10.77.128.0", 15)
GROUP, GROUP_PORT = "239.255.1.1", 3001
#: Seconds after which an honest client asks again.
AGAIN = 1.0


def forgedAnswer(kind: str, number: int) -> bytes:
    """Return what a receiver says that has everything up to this answer."""
    if kind == "slam":
        return buildList([range(number, 1 << 20)])
    return buildAck(number * (64 if kind in ("tftp", "single-port") else 1))


def _enter(path: str) -> None:
    with open(path, "rb") as place:
        if _libc.setns(place.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


def socketIn(netns: str, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, proto: int = 0) -> socket.socket:
    """Return a socket of another network namespace; only the calling thread goes there, and comes back."""
    with open("/proc/thread-self/ns/net", "rb") as here:
        _enter(f"/run/netns/{netns}")
        try:
            return socket.socket(family, kind, proto)
        finally:
            if _libc.setns(here.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "cannot come back")


def forged(source: tuple[str, int], to: tuple[str, int], payload: bytes) -> bytes:
    """Return an IPv4 packet with a UDP datagram; the kernel fills in the checksum of IPv4, and UDP has none."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    udp = struct.pack("!HHHH", source[1], to[1], 8 + len(payload), 0) + payload
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp


def attacker(hall: Hall) -> Host:
    """Plug in the host that forges; what is sent to forged names ends there."""
    host = hall.host("attacker", ATTACKER)
    sink = "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects"
    host.run(["sh", "-c", sink])
    return host


def routed(host: Host) -> Host:
    """Have this host send to forged names by way of the attacker, as to a router: it need not look for each of them."""
    near = f"{NEIGHBOURS[0]}/{32 - NEIGHBOURS[1]}"
    ip(netns=host.netns, batch=[f"route replace {to} via {ATTACKER} dev eth0" for to in ("default", near)])
    return host


def forge(host: Host, source: tuple[str, int], to: tuple[str, int], payload: bytes) -> None:
    """Send one datagram in a forged name."""
    with socketIn(host.netns, kind=socket.SOCK_RAW, proto=socket.IPPROTO_RAW) as raw:
        raw.sendto(forged(source, to, payload), (to[0], 0))


@contextmanager
def flood(
    host: Host,
    to: tuple[str, int],
    rate: int,
    payloads: Sequence[bytes],
    source: str = "",
    count: int = 0,
    near: bool = False,
) -> Iterator[Job]:
    """
    Forge so many datagrams a second within the block.

    @param source: the address and port they all come from; else each comes in the name of another stranger.
    @param near: or by turns of a stranger and of a machine on the server's link.
    @param count: how many are sent, all in all; 0: no end.
    """
    words = [
        "--to",
        f"{to[0]}:{to[1]}",
        "--rate",
        str(rate),
        "--count",
        str(count),
        "--source",
        source,
        *["--near"][:near],
    ]
    program = [sys.executable, "-m", "tests.support.lab.forging", *words, *(each.hex() for each in payloads)]
    job = host.start(program, cwd=ROOT)
    job.until("begins", 15)
    try:
        yield job
    finally:
        job.end()


class Seen(NamedTuple):
    """
    What a server has sent.

    @ivar datagrams: to single addresses, and C{octets}, with headers; C{groupDatagrams}, C{groupOctets}: to groups and
        broadcast addresses.
    """

    datagrams: int
    octets: int
    groupDatagrams: int
    groupOctets: int


class Tap:
    """Sees what leaves the interface of a host, from now on."""

    def __init__(self, host: Host) -> None:
        self._sources = {socket.inet_aton(each) for each in host.addresses if ":" not in each}
        self._socket = socketIn(host.netns, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 128 << 20)  # SO_RCVBUFFORCE
        self._socket.setblocking(False)
        self._socket.bind(("eth0", 3))

    def close(self) -> Seen:
        """Return what has been sent since the tap was made."""
        counts = [0, 0, 0, 0]
        with self._socket:
            while True:
                try:
                    packet = self._socket.recv(64)
                except BlockingIOError:
                    return Seen(*counts)
                if packet[9:10] == b"\x11" and packet[12:16] in self._sources:
                    at = 2 if packet[16] >= 224 or packet[18:20] == b"\xff\xff" else 0
                    counts[at] += 1
                    counts[at + 1] += int.from_bytes(packet[2:4], "big")


class Client:
    """
    One honest client of any transport: a read, and how long it takes.

    C{proxydhcp} and C{sbroadcast} are over with the first answer, all others with the last octet of the file.

    @ivar error: what it was told instead of a file; C{server}: where it was answered from last.
    """

    def __init__(self, host: Host, address: str, server: tuple[str, int], kind: str, request: bytes) -> None:
        self._life = ExitStack()
        self._own = self._life.enter_context(socketIn(host.netns))
        self._own.bind((address, 68 if kind == "proxydhcp" else 0))
        self._group = self._life.enter_context(socketIn(host.netns))
        self._group.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._address, self.server, self._kind = address, server, kind
        self._said = request
        self._blocks: dict[int, bytes] = {}
        self._acked, self._last, self._size = 0, -1, 512
        self.error, self._answered = b"", False
        if kind in ("mtftp", "slam"):
            self._join(GROUP, GROUP_PORT)

    def _join(self, group: str, port: int) -> None:
        self._group.bind((group, port))
        wanted = socket.inet_aton(group) + socket.inet_aton(self._address)
        self._group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)

    def fetch(self, patience: float = 10.0) -> float | None:
        """Return seconds until it has all it wants; L{None}: that was not within its patience."""
        began = time.monotonic()
        again = began
        poll = select.poll()
        for each in (self._own, self._group):
            poll.register(each, select.POLLIN)
        with self._life:
            while (now := time.monotonic()) < began + patience:
                if now >= again:
                    self._own.sendto(self._said, self.server)
                    again = now + AGAIN
                wait = min(again, began + patience) - now
                for ready, _ in poll.poll(max(0.0, 1000 * wait)):
                    own = ready == self._own.fileno()
                    packet, source = (self._own if own else self._group).recvfrom(2048)
                    if self._hear(packet, source, own):
                        return time.monotonic() - began
        return None

    def _say(self, datagram: bytes) -> None:
        self._said = datagram
        self._own.sendto(datagram, self.server)

    def _hear(self, packet: bytes, source: tuple[str, int], own: bool) -> bool:
        if self._kind in ("proxydhcp", "sbroadcast"):
            return own
        if self._kind == "slam":
            return self._heardSlam(packet, own)
        if own and self._answered and source != self.server:
            return False
        if own:
            self.server, self._answered = source, True
        if packet[:2] == b"\0\5":
            self.error = packet
            return True
        if packet[:2] == b"\0\6":
            self._heardOptions(packet)
        elif packet[:2] == b"\0\3":
            number = int.from_bytes(packet[2:4], "big")
            self._blocks[number] = packet[4:]
            if len(packet) < 516:
                self._last = number
            told = self._acked
            while self._acked + 1 in self._blocks:
                self._acked += 1
            # By MTFTP who has heard the group only is a listener, and asks again.
            begins = self._kind == "mtftp" and own
            if begins or (self._acked > told and (self._answered or self._kind != "mtftp")):
                self._say(b"\0\4" + self._acked.to_bytes(2, "big"))
        return len(self._blocks) == self._last

    def _heardOptions(self, packet: bytes) -> None:
        words = packet[2:-1].split(b"\0")
        options = dict(zip(words[::2], words[1::2], strict=True))
        group, _, rest = options.get(b"multicast", b"").decode().partition(",")
        if group and self._group.getsockname()[1] == 0:
            self._join(group, int(rest.partition(",")[0]))
        self._say(b"\0\4" + self._acked.to_bytes(2, "big"))

    def _heardSlam(self, packet: bytes, own: bool) -> bool:
        if own:
            missing = [range(n, n + 1) for n in range(self._last) if n not in self._blocks]
            if isHeader(packet) and missing:
                self._own.sendto(buildList(missing), self.server)
            elif isHeader(packet):
                self._own.sendto(FIRST_LIST, self.server)
            return False
        try:
            data: SlamData = parseData(packet)
        except WireError:
            return False  # no block
        self._blocks[data.number], self._last = data.payload, data.header.count
        if len(self._blocks) == self._last:
            self._own.sendto(b"\0", self.server)
        return len(self._blocks) == self._last


def anonymous(pid: int) -> int:
    """Return octets of the anonymous memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise ValueError("smaps_rollup without Anonymous")


def invented(chance: random.Random, near: bool) -> str:
    """Return an address to forge: of the server's link, or of a stranger far away."""
    network, bits = NEIGHBOURS if near else STRANGERS
    return socket.inet_ntoa(
        (int.from_bytes(socket.inet_aton(network), "big") + chance.getrandbits(bits)).to_bytes(4, "big")
    )


def main() -> None:
    """Forge datagrams, as the arguments say, at an even rate: what could not be sent in time is not made up for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--to")
    parser.add_argument("--rate", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--source")
    parser.add_argument("--near", action="store_true")
    parser.add_argument("payloads", nargs="+", type=bytes.fromhex)
    given = parser.parse_args()
    host, _, port = given.to.partition(":")
    chance = random.Random(0)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    began, sent = time.monotonic(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        while not given.count or sent < given.count:
            due = min(int((time.monotonic() - began) * given.rate), given.count or 1 << 60)
            for number in range(sent, due):
                address, _, numbered = given.source.partition(":")
                name = address or invented(chance, given.near and number % 2 == 1)
                source = name, int(numbered or 0) or 1024 + chance.getrandbits(15)
                payload = given.payloads[number % len(given.payloads)]
                raw.sendto(forged(source, (host, int(port)), payload), (host, 0))
            sent = max(sent, due)
            time.sleep(0.001)
    sys.stdout.write(f"sent {sent} in {time.monotonic() - began:.1f} s\n")
    sys.stdout.flush()
    os.read(0, 1)


if __name__ == "__main__":
    main()
