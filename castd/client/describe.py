"""
Describes a datagram in a line, for C{castd get -v}.
"""

from __future__ import annotations

from castd.errors import Refused, WireError
from castd.files.names import printable
from castd.packets.tftp import Ack, Data, Error, Options, parse, parseRequest

#: Characters of the longest description: what a peer sends must not fill a terminal.
LONGEST = 200
#: Octets that are shown of a datagram that is none of TFTP's.
SHOWN = 12


def describe(datagram: bytes) -> str:
    """
    Return what a datagram of TFTP's family says, such as C{DATA 5, 512 octets}; the length and the first octets of any
    other.

    The text has no character that a terminal obeys, and at most L{LONGEST} of them.
    """
    text = printable(_describe(datagram))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _describe(datagram: bytes) -> str:
    try:
        request = parseRequest(datagram)
        if request is not None:
            kind = "WRQ" if request.write else "RRQ"
            return f"{kind} {request.name} {request.mode}{_showOptions(request.options)}"
        packet = parse(datagram)
    except (Refused, WireError):
        return f"{len(datagram)} octets, {datagram[:SHOWN].hex(' ')}"
    if isinstance(packet, Data):
        return f"DATA {packet.number}, {len(packet.payload)} octets"
    if isinstance(packet, Ack):
        return f"ACK {packet.number}"
    if isinstance(packet, Error):
        return f"ERROR {packet.code} {packet.text}"
    return f"OACK{_showOptions(packet.options)}"


def _showOptions(options: Options) -> str:
    return "".join(f" {name}={value}" for name, value in options)
