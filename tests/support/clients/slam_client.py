"""
Simulates the SLAM clients of Etherboot and iPXE without code of castd: pure, with a script that drives them over
sockets.

Time is an argument, received datagrams are arguments of two methods (C{group}, C{unicast}), and datagrams to send are
return values.  Where a real client would give up or load a wrong image, C{failed} says why.

    python slam_client.py --kind ipxe --server 10.0.0.1:10000 --interface 10.0.0.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

MAXIMUM = 1472


class Unreadable(Exception):
    """The error that no integer stands where one is due."""


def integer(octets: bytes, at: int, widest: int = 4, spare: int = 0) -> tuple[int, int]:
    """
    Read a packed integer.  -> (value, offset of the next one).

    @param widest: longest form that the client reads; 0 skips it unread.
    @param spare: octets that must follow it: 1 with Etherboot's decoder.
    """
    if at >= len(octets):
        raise Unreadable("nothing left")
    length = octets[at] >> 5
    if length == 0 or (widest and length > widest) or at + length + spare > len(octets):
        raise Unreadable(f"length {length} at {at}")
    value = octets[at] & 0x1F
    for octet in octets[at + 1 : at + length]:
        value = value * 256 + octet
    return value, at + length


def packed(value: int) -> bytes:
    """Return the integer in its shortest form, built octet by octet."""
    octets = []
    while True:
        octets.append(value & 0xFF)
        value >>= 8
        if not value:
            break
    if octets[-1] > 0x1F:
        octets.append(0)
    octets[-1] |= len(octets) << 5
    return bytes(reversed(octets))


class Client:
    """The base class of both clients."""

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.header = b""
        self.image = bytearray()
        self.have = bytearray()
        self.size = self.blocksize = 0
        self.lists = self.resets = self.blocks = self.doubles = 0
        self.done = False
        self.failed = ""

    @property
    def over(self) -> bool:
        return self.done or bool(self.failed)

    def reset(self, header: bytes, size: int, blocksize: int) -> None:
        if self.header:
            self.resets += 1
        self.header, self.size, self.blocksize = header, size, blocksize
        self.image = bytearray(size)
        self.have = bytearray(-(-size // blocksize))

    def keep(self, number: int, payload: bytes) -> None:
        """Store a block that has passed all checks."""
        self.blocks += 1
        if self.have[number]:
            self.doubles += 1
            return
        self.have[number] = 1
        at = number * self.blocksize
        self.image[at : at + len(payload)] = payload

    def complete(self) -> list[bytes]:
        """Return the disconnect, if this was the last block and the client has ever sent a list."""
        if self.have.find(0) >= 0:
            return []
        self.done = True
        return [b"\0"] if self.lists else []


class Etherboot(Client):
    """proto_slam.c of Etherboot 5: a full list, one port for everything, quick to give up."""

    port = 10000

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.retry = -1
        self.at = 0.0

    def start(self, now: float) -> None:
        self.at = now + 1 / 3 + self.chance.random()

    def deadline(self) -> float | None:
        return None if self.over else self.at

    def tick(self, now: float) -> list[bytes]:
        """Act on a silence that was too long."""
        if self.over or now < self.at:
            return []
        self.retry += 1
        if self.retry > 21:
            self.failed = "silence"
            return []
        self.wait(now)
        return [self.list()]

    def wait(self, now: float) -> None:
        self.at = now + 2 + self.chance.random() * 4 * 2 ** min(max(self.retry, 0), 5)

    def accepted(self, now: float) -> None:
        self.retry = 0
        self.wait(now)

    def readHeader(self, octets: bytes) -> int | None:
        """Return the offset behind the header; Etherboot's decoder needs an octet behind each integer."""
        if self.header and octets.startswith(self.header):
            return len(self.header)
        try:
            _, at = integer(octets, 0, widest=0, spare=1)
            size, at = integer(octets, at, spare=1)
            blocksize, at = integer(octets, at, spare=1)
        except Unreadable as error:
            self.failed = f"header: {error}"
            return None
        if not size or not blocksize:
            self.failed = "header of nothing"
            return None
        count = -(-size // blocksize)
        if blocksize + at + len(packed(count)) > MAXIMUM:
            self.failed = "block size too large"
            return None
        self.reset(octets[:at], size, blocksize)
        return at

    def group(self, octets: bytes, now: float) -> list[bytes]:
        """Receive a datagram of the group: a block, or else the end of the download."""
        if self.over:
            return []
        at = self.readHeader(octets)
        if at is None:
            return []
        try:
            number, at = integer(octets, at, spare=1)
        except Unreadable as error:
            self.failed = f"packet number: {error}"
            return []
        count = len(self.have)
        if number >= count:
            self.failed = f"packet {number} of {count}"
            return []
        length = self.size % self.blocksize if number == count - 1 else self.blocksize
        if len(octets) - at != length:
            return []
        self.accepted(now)
        self.keep(number, octets[at:])
        return self.complete()

    def unicast(self, octets: bytes, now: float) -> list[bytes]:
        """Receive a status request, as every datagram to port 10000 is; Ethernet's padding follows a short one."""
        if self.over:
            return []
        if self.readHeader(octets + bytes(max(0, 18 - len(octets)))) is None:
            return []
        self.accepted(now)
        return [self.list()]

    def list(self) -> bytes:
        self.lists += 1
        if not self.header:
            return bytes([0x20, 0x21, 0])
        built, at, want = bytearray(), 0, 1
        while at < len(self.have):
            end = self.have.find(want ^ 1, at)
            end = len(self.have) if end < 0 else end
            end = at if self.have[at] != want else end
            run = packed(end - at)
            if len(built) + len(run) + 1 > MAXIMUM:
                break
            built += run
            at, want = end, want ^ 1
        return bytes(built) + b"\0"


class Ipxe(Client):
    """slam.c of iPXE: four blocks a list, a port of its own, two timers."""

    port = 0

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.slave = (0.0, 1.0)
        self.master: tuple[float, float] | None = None

    def start(self, now: float) -> None:
        self.slave = (now + 1, 1.0)

    def deadline(self) -> float | None:
        if self.over:
            return None
        return min(self.slave[0], self.master[0]) if self.master else self.slave[0]

    def tick(self, now: float) -> list[bytes]:
        if self.over:
            return []
        if self.master and now >= self.master[0]:
            wait = self.master[1] * 2
            self.master = (now + wait, wait) if wait <= 10 else None
            return [self.list()]
        if now >= self.slave[0]:
            wait = self.slave[1] * 2
            if wait > 8:
                self.failed = "silence"
                return [b"\0"]
            self.slave = (now + wait, wait)
            return [self.list()]
        return []

    def readHeader(self, octets: bytes) -> int:
        cached = self.header or b"\0"
        if octets.startswith(cached):
            return len(cached)
        _, at = integer(octets, 0, widest=0)
        size, at = integer(octets, at)
        blocksize, at = integer(octets, at)
        if not blocksize:
            raise Unreadable("block size 0")
        self.reset(octets[:at], size, blocksize)
        return at

    def group(self, octets: bytes, now: float) -> list[bytes]:
        if self.over:
            return []
        self.master, self.slave = None, (now + 1, 1.0)
        try:
            at = self.readHeader(octets)
            number, at = integer(octets, at)
        except Unreadable:
            return []
        payload, count = octets[at:], len(self.have)
        if number >= count or len(payload) > self.blocksize or (number < count - 1 and len(payload) < self.blocksize):
            return []
        if number == count - 1 and len(payload) != self.size - number * self.blocksize:
            self.failed = "wrong last block"
            return []
        self.keep(number, payload)
        return self.complete()

    def unicast(self, octets: bytes, now: float) -> list[bytes]:
        if self.over:
            return []
        self.master = (now + 0.25, 0.25)
        try:
            if self.readHeader(octets) != len(octets):
                return []
        except Unreadable:
            return []
        return [self.list()]

    def list(self) -> bytes:
        self.lists += 1
        if not self.have:
            return bytes([0x20, 0x21, 0])
        first = self.have.find(0)
        end = self.have.find(1, first)
        end = len(self.have) if end < 0 else end
        return packed(first) + packed(min(end - first, 4)) + b"\0"


KINDS: dict[str, type[Etherboot] | type[Ipxe]] = {"etherboot": Etherboot, "ipxe": Ipxe}


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def run(
    client: Etherboot | Ipxe, server: tuple[str, int], group: tuple[str, int], interface: str, limit: float
) -> None:
    """Download over sockets, until it is over or C{limit} seconds have passed."""
    many = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    many.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    many.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    many.bind(group)  # bound to the group address, the socket receives only group datagrams
    membership = socket.inet_aton(group[0]) + socket.inet_aton(interface)
    many.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("8s", membership))
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind((interface, client.port))
    client.start(time.monotonic())
    end = time.monotonic() + limit
    while not client.over and (now := time.monotonic()) < end:
        wait = max(0.0, min(client.deadline() or end, end) - now)
        asked = own in select.select([many, own], [], [], wait)[0]
        answers = client.tick(time.monotonic())
        # A status request comes after the blocks that it asks about, so all of these are read first.
        answers += hear(many, client.group)
        if asked:
            answers += client.unicast(own.recv(65535), time.monotonic())
        for answer in answers:
            own.sendto(answer, server)


def hear(many: socket.socket, take: Callable[[bytes, float], list[bytes]]) -> list[bytes]:
    """Read a socket until it is empty."""
    answers = []
    while True:
        try:
            octets = many.recv(65535, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return answers
        answers += take(octets, time.monotonic())


def main() -> int:
    parser = argparse.ArgumentParser(description="Download by SLAM and print what came of it as JSON.")
    parser.add_argument("--kind", choices=KINDS, default="ipxe")
    parser.add_argument("--server", type=place, required=True)
    parser.add_argument("--group", type=place, default=("239.255.1.1", 10000))
    parser.add_argument("--interface", required=True, help="own address; the group is joined there")
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output")
    parser.add_argument("--wait", action="store_true", help="say 'ready' when loaded, and begin when a line is read")
    options = parser.parse_args()
    if options.wait:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
    client = KINDS[options.kind](options.seed)
    began = time.monotonic()
    run(client, options.server, options.group, options.interface, options.limit)
    if options.output and client.done:
        with open(options.output, "wb") as file:
            file.write(client.image)
    result = {
        "done": client.done,
        "failed": client.failed,
        "sha256": hashlib.sha256(client.image).hexdigest() if client.done else None,
        "octets": len(client.image),
        "seconds": round(time.monotonic() - began, 3),
        "lists": client.lists,
        "blocks": client.blocks,
        "doubles": client.doubles,
        "resets": client.resets,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if client.done else 1


if __name__ == "__main__":
    sys.exit(main())
