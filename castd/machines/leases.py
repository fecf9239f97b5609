"""
Read the lease files of DHCP servers: which machine has which address, until when.

A server appends to its file or rewrites it while others read: a last line that is not complete, and whatever cannot be
read, is skipped.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from castd.machines.known import plainAddress, validMac

#: Leases that are read of one file; beyond that the rest is ignored.
MOST_LEASES = 65536


class Lease(NamedTuple):
    """
    One address that a DHCP server has given to a machine.

    @ivar until: when it ends, in seconds since 1970; L{None}: never.
    """

    ip: str
    mac: str
    until: float | None


def parseLeases(text: str, form: str) -> Mapping[str, Lease]:
    """
    Read a lease file.

    @param form: a key of L{FORMATS}.
    @return: the last lease of each address that is in force; it may be over by now.
    """
    found: dict[str, Lease] = {}
    for ip, lease in FORMATS[form](text):
        found.pop(ip, None)
        if lease is not None:
            found[ip] = lease
            if len(found) > MOST_LEASES:
                break
    return found


def _lease(ip: object, mac: object, until: float | None) -> Iterator[tuple[str, Lease | None]]:
    address, hardware = plainAddress(ip), validMac(mac)
    if address is not None and hardware is not None:
        yield address, Lease(address, hardware, until)


def _dnsmasq(text: str) -> Iterator[tuple[str, Lease | None]]:
    """
    Read C{dnsmasq.leases}: when it ends (0: never), MAC, address, name and client identifier, with blanks between them
    (dnsmasq's lease.c).  A MAC of another kind than Ethernet has its kind before it: C{06-52:54:...}.
    """
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        until = _seconds(fields[0])
        if until is not None:
            yield from _lease(fields[2], fields[1].rpartition("-")[2], until or None)


def _isc(text: str) -> Iterator[tuple[str, Lease | None]]:
    """
    Read C{dhcpd.leases} (dhcpd.leases(5)): C{lease ADDRESS {...}} with C{ends}, C{hardware} and C{binding state}.  It
    is a log: the last lease of an address counts, and one that is not active ends those before.
    """
    ip: str | None = None
    values: dict[str, str] = {}
    depth = 0
    for words, mark in _statements(text):
        if mark == "{":
            depth += 1
            if depth == 1:
                ip, values = (words[1] if words[:1] == ["lease"] and len(words) == 2 else None), {}
        elif mark == "}":
            depth = max(0, depth - 1)
            if depth == 0 and ip is not None:
                yield from _iscLease(ip, values)
                ip = None
        elif depth == 1 and len(words) > 1:
            size = 2 if words[0] in ("binding", "hardware") else 1
            values[" ".join(words[:size])] = " ".join(words[size:])


def _statements(text: str) -> Iterator[tuple[list[str], str]]:
    """Return the words of each statement, and the C{;}, C{{} or C{}} behind it."""
    for line in text.splitlines():
        at, quoted, start = 0, False, 0
        while at < len(line):
            letter = line[at]
            if quoted:
                at += 1 if letter != "\\" else 2
                quoted = letter != '"'
                continue
            if letter == '"':
                quoted = True
            elif letter == "#":
                break
            elif letter in ";{}":
                yield line[start:at].split(), letter
                start = at + 1
            at += 1


def _iscLease(ip: str, values: Mapping[str, str]) -> Iterator[tuple[str, Lease | None]]:
    address = plainAddress(ip)
    if address is None:
        return
    if values.get("binding state", "active") != "active":
        yield address, None
        return
    ends = values.get("ends", "never")
    until = None if ends == "never" else _iscTime(ends)
    if ends == "never" or until is not None:
        yield from _lease(ip, values.get("hardware ethernet"), until)


def _iscTime(text: str) -> float | None:
    """Read C{4 2026/11/26 21:24:00} (UTC), or C{epoch 1795728240}."""
    words = text.split()
    if len(words) >= 2 and words[0] == "epoch":
        return _seconds(words[1])
    try:
        found = datetime.strptime(" ".join(words[1:3]), "%Y/%m/%d %H:%M:%S")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC).timestamp()


def _kea(text: str) -> Iterator[tuple[str, Lease | None]]:
    """
    Read C{kea-leases4.csv} or C{kea-leases6.csv} (Kea's memfile): columns by the names in the first line; C{state} 0 is
    in force; a lease that is released has a lifetime of 0.  It is a log, too.
    """
    lines = iter(csv.reader(text.splitlines()))
    try:
        columns = {name: place for place, name in enumerate(next(lines, []))}
        if not {"address", "hwaddr", "expire"} <= columns.keys():
            return
        for row in lines:
            if len(row) == len(columns):
                yield from _keaLease({name: row[place] for name, place in columns.items()})
    except csv.Error:
        return


def _keaLease(row: Mapping[str, str]) -> Iterator[tuple[str, Lease | None]]:
    address, until = plainAddress(row["address"]), _seconds(row["expire"])
    if address is None or until is None:
        return
    if row.get("state", "0") != "0" or row.get("valid_lifetime") == "0":
        yield address, None
        return
    endless = row.get("valid_lifetime") == "4294967295"
    yield from _lease(address, row["hwaddr"], None if endless else until)


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


#: Reads the text of a lease file, by the name of its form in a service file: pairs of an address and its lease, or
#: L{None} if it has none from there on.
FORMATS: Mapping[str, Callable[[str], Iterator[tuple[str, Lease | None]]]] = {
    "dnsmasq": _dnsmasq,
    "isc": _isc,
    "kea": _kea,
}
