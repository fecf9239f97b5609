"""
Forwards multicast from one interface to another: C{route_groups.py IN OUT SOURCE GROUP...}.

It is the multicast router of L{Hall.beyond<tests.support.lab.hall.Hall.beyond>}: routes are fixed, nobody is asked for
members.  They last as long as the program runs.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys

MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204
VIFF_USE_IFINDEX = 8
#: vifctl: number, flags, least TTL, rate, interface, remote address.  mfcctl: source, group, interface in, TTLs out.
VIF, MFC = struct.Struct("=HBBIi4x"), struct.Struct("=4s4sH32s2x16x")


def main(inward: str, outward: str, source: str, groups: list[str]) -> None:
    routing = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    routing.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
    for number, interface in enumerate((inward, outward)):
        index = socket.if_nametoindex(interface)
        routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, VIF.pack(number, VIFF_USE_IFINDEX, 1, 0, index))
    for group in groups:
        route = MFC.pack(socket.inet_aton(source), socket.inet_aton(group), 0, bytes([0, 1]))
        routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, route)
    os.write(1, b"routing\n")
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
