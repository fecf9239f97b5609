"""
Read the kernel's table of neighbours: the MAC of each address on the networks of this machine.

It is asked by netlink, for IPv4 and IPv6 at once (rtnetlink(7), C{RTM_GETNEIGH}).
"""

from __future__ import annotations

import errno
import os
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
#: What a message of the kernel's about the request begins with: 0, or the number of an error, negative.
_STATUS = struct.Struct("=i")


def readNeighbours() -> Mapping[str, str]:
    """
    Read the MAC of each neighbour, by address.  This asks the kernel, and nobody else.

    @return: without the addresses that two machines have, each on a network of its own (C{fe80::1} on two links).
    @raise OSError: the kernel cannot be asked, or does not list them to the end.
    """
    found: dict[str, str] = {}
    twice: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(TIMEOUT)
        length = _HEADER.size + _NEIGHBOUR.size
        asked.send(_HEADER.pack(length, _RTM_GETNEIGH, _REQUEST | _DUMP, 1, 0) + _NEIGHBOUR.pack(0, 0, 0, 0, 0))
        isLast = False
        while not isLast and len(found) < MOST_NEIGHBOURS:
            answer = asked.recv(_LARGEST)
            isLast = _isLast(answer)
            for ip, mac in parseNeighbours(answer):
                if found.setdefault(ip, mac) != mac:
                    twice.add(ip)
    return {ip: mac for ip, mac in found.items() if ip not in twice}


def parseNeighbours(answer: bytes) -> Iterator[tuple[str, str]]:
    """Return address and MAC of each neighbour in one answer; what cannot be read is skipped."""
    for (_, kind, *_), body in _records(answer, _HEADER):
        if kind != _RTM_NEWNEIGH or len(body) < _NEIGHBOUR.size:
            continue
        family, _, state, _, _ = _NEIGHBOUR.unpack_from(body)
        values = {kind: value for (_, kind), value in _records(body[_NEIGHBOUR.size :], _ATTRIBUTE)}
        address = values.get(_ADDRESS, b"")
        if state & _USELESS or (family, len(address)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            continue
        ip = plainAddress(socket.inet_ntop(family, address))
        mac = validMac(values.get(_LINK_ADDRESS, b"").hex(":"))
        if ip is not None and mac is not None:
            yield ip, mac


def _isLast(answer: bytes) -> bool:
    """
    Return whether an answer ends the list.

    @raise OSError: the kernel refuses the request, or cannot go on; or the answer cannot be read.
    """
    isLast = isReadable = False
    for (_, kind, *_), body in _records(answer, _HEADER):
        isReadable = True
        if kind in (_DONE, _ERROR):
            number = -_STATUS.unpack_from(body)[0] if len(body) >= _STATUS.size else errno.EBADMSG
            if number:
                raise OSError(number, os.strerror(number))
            isLast = True
    if not isReadable:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    return isLast


def _records(octets: bytes, header: struct.Struct) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """
    Return header and body of each message, or of each attribute in one, up to the first that cannot be read.

    @param header: it begins with the length of both.
    """
    at = 0
    while at + header.size <= len(octets):
        values = header.unpack_from(octets, at)
        if not header.size <= values[0] <= len(octets) - at:
            return
        yield values, octets[at + header.size : at + values[0]]
        at += (values[0] + 3) & ~3
