"""Count the files that one read request passes through: C{python benchmarks/callpath.py}.

A server is composed from a service file on a virtual network, a client sends one RRQ with blksize and tsize, and every
call from the request's arrival until the OACK is sent is seen by C{sys.setprofile}. Only files of castd count, without
C{castd.testing}, which is the network. A move is a call of a function that stands in another file than the nearest
castd function that led to it; imports do not count.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import click
from twisted.internet.protocol import DatagramProtocol

import castd
from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.service.service import Server, compose, kinds
from castd.testing import Network

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"
SERVICE = """\
castd: 1
content: [{directory: {path: boot}}]
access: [{allow: any}]
transports:
  tftp: {port: 69}
"""
RRQ = b"\0\1kernel\0octet\0blksize\x001428\0tsize\x000\0"
OACK = b"\0\6"

ROOT = str(Path(castd.__file__).parent) + "/"
HARNESS = ROOT + "testing/"


#: What C{lru_cache} makes of a function.
Remembering = type(lru_cache(len))


class CallPath:
    """
    The calls between functions of castd, in their order.

    @ivar calls: (file of the caller, file of the callee, name of the callee); the first caller is empty.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """As C{sys.setprofile} calls it."""
        callee = counted(frame)
        if event == "call" and callee and frame.f_code.co_name != "<module>":
            above, harnessed = frame.f_back, False
            while above is not None and not counted(above):
                harnessed = harnessed or above.f_code.co_filename.startswith(HARNESS)
                above = above.f_back
            # What the virtual network asks of castd to do its own part is no way of the request.
            if above is None or not harnessed:
                self.calls.append((counted(above) if above is not None else "", callee, frame.f_code.co_qualname))

    def files(self) -> list[str]:
        """Return the files, in the order in which they are reached first."""
        return list(dict.fromkeys(callee for _, callee, _ in self.calls))

    def moves(self) -> list[tuple[str, str, str]]:
        """Return the calls that lead into another file."""
        return [call for call in self.calls if call[0] != call[1]]


def counted(frame: FrameType) -> str:
    """Return the file of this function below C{castd/}; empty: it is of another package, or of the virtual network."""
    file = frame.f_code.co_filename
    return file.removeprefix(ROOT) if file.startswith(ROOT) and not file.startswith(HARNESS) else ""


def start(folder: Path, network: Network) -> Server:
    """Start a server that listens on the network and has one file."""
    (folder / "boot").mkdir()
    (folder / "boot" / "kernel").write_bytes(bytes(100_000))
    config = build(yaml.parse(SERVICE.encode(), "castd.yaml"), folder / "castd.yaml", kinds(collect()))
    host: Any = network.host(SERVER)
    server = compose(config, collect(), host, host, random.Random(0))
    server.privilegedStartService()
    server.startService()
    network.advance(1)
    return server


def untilOack(network: Network, request: bytes) -> CallPath:
    """Send a request, and record the calls that it leads to until an OACK is sent.

    @raise SystemExit: no OACK is sent.
    """
    path, answered = CallPath(), []
    # As for the first request of all: what earlier ones have left in caches spares calls.
    for each in gc.get_objects():
        if isinstance(each, Remembering) and each.__module__.startswith("castd."):
            each.cache_clear()

    def watch(source: object, destination: object, datagram: bytes) -> bool:
        if datagram.startswith(OACK):
            sys.setprofile(None)
            answered.append(datagram)
        return False

    stop: Callable[[], None] = network.losing(watch)
    network.host(CLIENT).listenUDP(2000, DatagramProtocol()).write(request, (SERVER, 69))
    sys.setprofile(path)
    network.run(lambda: bool(answered), limit=5)
    sys.setprofile(None)
    stop()
    if not answered:
        raise SystemExit("no OACK came")
    return path


def main() -> None:
    """Print the counts and the moves."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network()
        start(Path(folder), network)
        path = untilOack(network, RRQ)
    for caller, callee, name in path.moves():
        click.echo(f"{caller or '(network)':30} -> {callee:30} {name}")
    click.echo(
        f"\nfiles touched: {len(path.files())}\nmoves between files: {len(path.moves())}\ncalls: {len(path.calls)}"
    )
    click.echo("\n" + "\n".join(path.files()))


if __name__ == "__main__":
    main()
