"""
The receiving half of RFC 2090: C{tftm://host[:port]/file}, as iPXE spells it.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from castd.interfaces import ITransferHalf
from castd.packets.multicast import parseMulticast
from castd.packets.tftp import DATA as _DATA
from castd.packets.tftp import Data, opcode, parse
from castd.receive.group import GroupDownload


@implementer(ITransferHalf)
class MulticastDownload(GroupDownload):
    """A file from a multicast group; C{tid} is compared with the source of its blocks."""

    option = "multicast"

    def _offer(self, value: str) -> bool:
        found = parseMulticast(value)
        self.group = found.group or self.group
        return found.master

    def _block(self, datagram: bytes, peer: Any) -> Data | None:
        if opcode(datagram) != _DATA or (self.tid is not None and tuple(peer[:2]) != self.tid[:2]):
            return None
        packet = parse(datagram)
        return packet if isinstance(packet, Data) else None
