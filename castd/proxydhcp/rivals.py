"""
Recognize other servers that answer machines that boot, by what they broadcast to port 68.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket

_NOWHERE = IPv4Address(0)
_NO_PROXY = 176
#: Servers that are told apart at once.
MOST_RIVALS = 256
#: Seconds between two lines about one server.
TELL_AGAIN = 3600.0


class Rival(NamedTuple):
    """
    Another server.

    @ivar host: its address.
    @ivar proxy: it hands out no address; C{False}: it is a DHCP server, whose boot data is taken instead of ours.
    @ivar told: what it says, for the log.
    """

    host: str
    proxy: bool
    told: str


def rival(packet: DhcpPacket, source: str, own: IPv4Address, port67: bool = True) -> Rival | None:
    """
    Read an offer that was broadcast.

    @param source: the address that it came from.
    @param port67: machines hear of this server by itself; C{False}: by option 60 of the DHCP server.
    @return: L{None}: it is ours, or has nothing to do with booting.
    """
    if packet.op != dhcp.BOOTREPLY or packet.messageType != dhcp.OFFER:
        return None
    server = packet.option(dhcp.SERVER_ID)
    host = str(IPv4Address(server)) if len(server) == 4 else source
    # A DHCP server of this machine has the same address, and gives another one away.
    if packet.yiaddr == _NOWHERE and str(own) in (host, source):
        return None
    file = (packet.file or packet.option(dhcp.BOOT_FILE).rstrip(b"\0")).decode("ascii", "backslashreplace")
    isPxe = packet.option(dhcp.VENDOR_CLASS).startswith(pxe.PXE_CLIENT)
    if packet.yiaddr == _NOWHERE:
        return Rival(host, True, f"with file {file}" if file else "") if isPxe else None
    told = [f"file {file}"] if file else []
    if isPxe and port67:
        told.append("option 60")
    if _saysNoProxy(packet.option(dhcp.IPXE)):
        told.append("iPXE's no-pxedhcp (175.176)")
    return Rival(host, False, ", ".join(told)) if told else None


def _saysNoProxy(option175: bytes) -> bool:
    at = 0
    while at + 1 < len(option175):
        if option175[at] == _NO_PROXY:
            return any(option175[at + 2 : at + 2 + option175[at + 1]])
        at += 2 + option175[at + 1]
    return False
