"""
The receiving half of IBM's subnet broadcast, for programs: it has no URL.  It must be let bind port 247.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.interfaces import ITransferHalf
from castd.packets.multicast import BDATA, parseBdata, parseSubnet
from castd.packets.tftp import Data, opcode
from castd.receive.group import GroupDownload
from castd.receive.options import RequestedOptions
from castd.receive.tftp import CLIENT_POLICY

#: What data comes to until the server says otherwise (IANA subntbcst_tftp).
PORT = 247


@implementer(ITransferHalf)
class SbroadcastDownload(GroupDownload):
    """
    A file from the broadcasts of a subnet.

    A block is taken by its identifier and source port alone: a server with several addresses may use any of them.
    """

    option = "sbroadcast"

    def __init__(
        self,
        name: str,
        mask: str,
        requested: RequestedOptions | None = None,
        policy: RetransmitPolicy = CLIENT_POLICY,
        code: int = BDATA,
        flags: tuple[str, str] = ("0", "1"),
    ) -> None:
        """
        @param mask: of this client's subnet, a dotted quad.
        @param code: the opcode of data packets.
        @param flags: how the server tells who is not the master, and who is.
        """
        super().__init__(name, requested or RequestedOptions(blksize=1464), policy, mask)
        self.group = ("", PORT)
        self._sbid: int | None = None
        self._code = code
        self._flags = flags

    def _offer(self, value: str) -> bool:
        found = parseSubnet(value, *self._flags)
        self.group = ("", found.port or PORT)
        self._sbid = self._sbid if found.sbid is None else found.sbid
        return found.master

    def _block(self, datagram: bytes, peer: Any) -> Data | None:
        if opcode(datagram) != self._code or (self.tid is not None and peer[1] != self.tid[1]):
            return None
        block = parseBdata(datagram, self._code)
        return Data(block.number, block.payload) if block.sbid == self._sbid else None
