"""
Fetch a file by subnet broadcast with castd's own receiving half, which has no URL: for tests with real sockets.

    python tests/support/clients/sbroadcast_get.py 10.77.0.1 255.255.0.0 name copy

It says "ready" when it has been loaded, and asks when it reads a line: several are to ask at once, however busy the
machine is that loads them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from castd.client.transfer import ClientTransfer
from castd.receive.group import SbroadcastDownload
from castd.testing import ReceivedFile


async def get(reactor: Any, server: str, mask: str, name: str, local: str) -> None:
    collector, copy = SbroadcastDownload(name, mask), ReceivedFile()
    report = await ClientTransfer(reactor, collector, (server, 69), copy, None).start()
    Path(local).write_bytes(copy.data)
    await report.closed
    sys.stdout.write(f"{report.octets} octets, {report.blocks} blocks of {report.blksize}\n")


def main(reactor: Any, *words: str) -> Deferred[None]:
    """As C{react} wants it."""
    return Deferred.fromCoroutine(get(reactor, *words))


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    react(main, sys.argv[1:])
