"""What was on a wire: dumpcap at a host's port of the switch, read back by tshark."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.jobs import eventually
from tests.support.lab.hall import Hall

NEEDS = ("dumpcap", "tshark")

MARK = b"castd-e2e: the capture ends here"
MARKER = f"""
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link.sendto({MARK!r}, ("10.77.255.255", 9))
"""
"""Wires keep the order: once this datagram is in the file, so is all that was sent before it."""


class Capture:
    """The frames of one wire, complete once the L{capturing} that made it is left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, *fields: str, where: str = "udp") -> list[tuple[str, ...]]:
        """
        One row for each packet.

        @param fields: tshark's names, such as C{ip.src}, C{udp.srcport}, C{udp.payload} (hexadecimal).
        @param where: a display filter of tshark.
        """
        words = [
            "tshark",
            "-n",
            "-r",
            str(self.path),
            "-Y",
            f"({where}) && !(udp.dstport == 9)",
            "-T",
            "fields",
            "-E",
            "occurrence=f",
        ]
        words += [word for field in fields for word in ("-e", field)]
        shown = subprocess.run(words, check=True, text=True, capture_output=True, timeout=60).stdout
        return [tuple(line.split("\t")) for line in shown.splitlines()]


@contextlib.contextmanager
def capturing(hall: Hall, port: str, expression: str = "udp") -> Iterator[Capture]:
    """
    Capture within the block, from its first packet to its last.

    @param port: the name of a host or machine.
    @param expression: of pcap-filter(7).
    """
    path = hall.folder / f"{port}.pcap"
    job = hall.start(["dumpcap", "-q", "-P", "-i", port, "-f", f"({expression}) or udp dst port 9", "-w", str(path)])
    job.until("File:", 10)
    try:
        yield Capture(path)
    finally:
        hall.start([sys.executable, "-c", MARKER]).finish(10)
        eventually(lambda: MARK in path.read_bytes(), "the end of the capture", 10)
        job.end(signal.SIGINT)
