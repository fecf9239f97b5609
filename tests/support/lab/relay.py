"""
Sends on what arrives at an interface, later or several times: C{relay.py INTERFACE OUT MARK SECONDS...}.

Each frame that comes in by INTERFACE leaves by OUT once for each number of seconds, so long after it came.  L{delaying}
and L{doubling} of C{wires.py} run it in the switch; the nftables rules there pick the frames, and let those pass that
have MARK.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL, SO_MARK = 3, 36


def opened(interface: str, protocol: int) -> socket.socket:
    """
    Open a socket for whole frames, each behind the header that says which checksum is still to be computed: a veth
    leaves that to the last interface, and a frame without it would be dropped by its receiver.
    """
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.bind((interface, protocol))
    return link


def main(interface: str, out: str, mark: int, delays: list[float]) -> None:
    source, target = opened(interface, ETH_P_ALL), opened(out, 0)
    source.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    target.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    waiting: list[tuple[float, int, bytes]] = []
    number = 0
    os.write(1, b"relaying\n")
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([source], [], [], timeout)[0]:
            frame, now = source.recv(65535), time.monotonic()
            for delay in delays:
                heapq.heappush(waiting, (now + delay, number, frame))
                number += 1
        while waiting and waiting[0][0] <= time.monotonic():
            target.send(heapq.heappop(waiting)[2])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), [float(each) for each in sys.argv[4:]])
