"""
Read the kernel's table of neighbours: the MAC of each address on the networks of this machine.

It is asked by netlink, for IPv4 and IPv6 at once (rtnetlink(7), C{RTM_GETNEIGH}).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping

from castd.machines.known import plainAddress, validMac

#: Neighbours that are read; beyond that the rest is ignored.
MOST_NEIGHBOURS = 65536
#: The most seconds that an answer of the kernel is waited for.
TIMEOUT = 1.0

_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_DONE, _ERROR = 3, 2
_REQUEST, _DUMP = 0x001, 0x300
_ADDRESS, _LINK_ADDRESS = 1, 2  # NDA_DST, NDA_LLADDR
#: States in which the kernel knows no MAC, or none that is meant for anybody: incomplete, failed, noarp.
_USELESS = 0x01 | 0x20 | 0x40
#: Octets of one answer.
_LARGEST = 1 << 16
_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")


def readNeighbours() -> Mapping[str, str]:
    """
    Read the MAC of each neighbour, by address.  This asks the kernel, and nobody else.

    @return: without the addresses that two machines have, each on a network of its own (C{fe80::1} on two links).
    @raise OSError: the kernel cannot be asked.
    """
    found: dict[str, str] = {}
    twice: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(TIMEOUT)
        length = _HEADER.size + _NEIGHBOUR.size
        asked.send(_HEADER.pack(length, _RTM_GETNEIGH, _REQUEST | _DUMP, 1, 0) + _NEIGHBOUR.pack(0, 0, 0, 0, 0))
        while len(found) < MOST_NEIGHBOURS:
            answer = asked.recv(_LARGEST)
            for ip, mac in parseNeighbours(answer):
                if found.setdefault(ip, mac) != mac:
                    twice.add(ip)
            if _isLast(answer):
                break
    return {ip: mac for ip, mac in found.items() if ip not in twice}


def parseNeighbours(answer: bytes) -> Iterator[tuple[str, str]]:
    """Return address and MAC of each neighbour in one answer; what cannot be read is skipped."""
    for kind, body in _messages(answer):
        if kind != _RTM_NEWNEIGH or len(body) < _NEIGHBOUR.size:
            continue
        family, _, state, _, _ = _NEIGHBOUR.unpack_from(body)
        values = dict(_attributes(body[_NEIGHBOUR.size :]))
        address = values.get(_ADDRESS, b"")
        if state & _USELESS or (family, len(address)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            continue
        ip = plainAddress(socket.inet_ntop(family, address))
        mac = validMac(values.get(_LINK_ADDRESS, b"").hex(":"))
        if ip is not None and mac is not None:
            yield ip, mac


def _isLast(answer: bytes) -> bool:
    kinds = [kind for kind, _ in _messages(answer)]
    return not kinds or _DONE in kinds or _ERROR in kinds


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Return type and body of each message."""
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, _, _, _ = _HEADER.unpack_from(answer, at)
        if not _HEADER.size <= length <= len(answer) - at:
            return
        yield kind, answer[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Return type and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, at)
        if not _ATTRIBUTE.size <= length <= len(octets) - at:
            return
        yield kind, octets[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
