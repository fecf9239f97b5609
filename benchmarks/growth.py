"""Measures what grows with the size of a server: C{python benchmarks/growth.py [--docs]}.

Each row does one thing at several sizes: members of a group, groups, rules, files, transfers. The figure is the
processor time of one such thing at that size, the least of several runs. What is flat costs the same at every size; the
last column is the cost at the largest size divided by that at the smallest, and the one to look at, since it does not
depend on the machine. Everything but the directories is in memory: no packet is sent. Only the second table is of a
process, on loopback, that is short of descriptors.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
from facts import DOCS, GROWTH, today
from twisted.internet.protocol import DatagramProtocol

from castd import outcomes
from castd.cast.events import Leave, RequestBlocks
from castd.cast.policy import RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.cast.turn import Turn
from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.config.warnings import warningsOf
from castd.dialects.mtftp import readFiles
from castd.files.access import Rule, Rules
from castd.files.root import Root
from castd.group_pool import GroupPool, GroupRange
from castd.options import groups
from castd.request import Peer
from castd.service.service import compose, kinds
from castd.testing import Network

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.lab import castd as lab

SIZES = (100, 1_000, 10_000)
#: Sizes up to the most transfers that are promised, and of directories.
TRANSFERS, NAMES = (50, 500, 5_000), (1_000, 10_000, 100_000)
RUNS = 5

#: Prepares something of a size, and returns what is timed, with the number of things that it does.
Row = Callable[[int], tuple[Callable[[], object], int]]


def peerOf(number: int) -> Peer:
    """Return the address of one of many machines."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 2000


def _drain(cast: Any, now: float) -> None:
    while cast.poll(now) is not None:
        pass


def turnJoins(size: int) -> tuple[Callable[[], object], int]:
    """One more member joins a group of multicast TFTP."""
    cast = Turn(RetransmitPolicy(), 1000)
    for number in range(size):
        cast.join(peerOf(number), 0.0)
        _drain(cast, 0.0)
    return lambda: (cast.join(peerOf(size), 0.0), _drain(cast, 0.0)), 1


def sweepJoins(size: int) -> tuple[Callable[[], object], int]:
    """One more member joins a group of SLAM."""
    cast = Sweep(RetransmitPolicy(), 1000, maxMembers=size + 10)
    for number in range(size):
        cast.join(peerOf(number), 0.0, (range(1000),))
    return lambda: cast.join(peerOf(size), 0.0, (range(1000),)), 1


def turnLeaves(size: int) -> tuple[Callable[[], object], int]:
    """Of all members of a group at once, each leaves."""
    cast = Turn(RetransmitPolicy(), 1000)
    for number in range(size):
        cast.join(peerOf(number), 0.0)
        _drain(cast, 0.0)

    def leave() -> None:
        for number in range(size):
            cast.hear(peerOf(number), Leave(outcomes.DONE), 0.1)
        _drain(cast, 0.1)

    return leave, size


def groupsAllocated(size: int) -> tuple[Callable[[], object], int]:
    """One more group gets an address, where so many have one."""
    pool, addresses = GroupPool(), GroupRange(groups("239.192.0.0/16"), 1758)
    for _ in range(size):
        pool.allocate(addresses, 0.0)
    return lambda: pool.allocate(addresses, 0.0), 1


def rulesByNetwork(size: int) -> tuple[Callable[[], object], int]:
    """A request is checked against so many rules for networks, from an address that was never seen."""
    rules = [
        Rule.model_validate({"allow": f"10.{n >> 8}.{n & 255}.0/24", "names": ["a"], "for": "read"})
        for n in range(size)
    ]
    made, hosts = Rules([*rules, Rule.model_validate({"allow": "any"})]), iter(range(1 << 20))
    return lambda: made.check(f"192.168.{(n := next(hosts)) >> 8 & 255}.{n & 255}", "b/c"), 1


def rulesByName(size: int) -> tuple[Callable[[], object], int]:
    """A request is checked against so many rules for names."""
    rules = [Rule.model_validate({"deny": "any", "names": [f"images/{n}/*.img"]}) for n in range(size)]
    made = Rules([*rules, Rule.model_validate({"allow": "any"})])
    return lambda: made.check("10.0.0.9", "images/none/x.efi"), 1


def mapRead(size: int) -> tuple[Callable[[], object], int]:
    """A file of a map of MTFTP is read, of so many."""
    names = {f"file{n}": f"239.192.{n >> 8}.{n & 255}:1758" for n in range(size)}
    return lambda: readFiles(names), size


def serviceFileRead(size: int) -> tuple[Callable[[], object], int]:
    """An access rule of a service file is read and checked, of so many."""
    rules = "".join(f"- {{allow: 10.{n >> 8}.{n & 255}.0/24, for: read}}\n" for n in range(size))
    text = f"castd: 1\ncontent: [{{directory: {{path: x}}}}]\ntransports: {{tftp: }}\naccess:\n{rules}"
    known = kinds(collect())
    return lambda: list(warningsOf(build(yaml.parse(text.encode(), "x"), Path("x"), known))), size


def confirmed(size: int) -> tuple[Callable[[], object], int]:
    """One listener of a group in which each is told that it is one (C{confirm}) acknowledges."""
    cast = Turn(RetransmitPolicy(maxListenerRepeats=3), 1000)
    for number in range(size):
        cast.join(peerOf(number), 0.0)
        _drain(cast, 0.0)
    return lambda: (cast.hear(peerOf(size // 2), RequestBlocks((range(1000),)), 0.1), _drain(cast, 0.1)), 1


SERVICE = """
castd: 1
content: [{directory: {path: boot}}]
access: [{allow: any}]
limits: {casts: 20000, receivers: 20000, per-peer: 20000, new-per-peer: 100000/s}
transports:
  tftp: {port: 69}
"""


class Reader(DatagramProtocol):
    """A client of TFTP that acknowledges what it is told to, and no more."""

    def __init__(self) -> None:
        self.server: Any = None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.server = addr

    def acknowledge(self, number: int) -> None:
        self.transport.write(b"\0\4" + number.to_bytes(2, "big"), self.server)


class Busy:
    """A server on a network in memory, in the midst of so many transfers."""

    def __init__(self, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "boot").mkdir()
        (folder / "boot" / "f").write_bytes(bytes(1_000_000))
        self.network = Network(capture=False)
        config = build(yaml.parse(SERVICE.encode(), "castd.yaml"), folder / "castd.yaml", kinds(collect()))
        host: Any = self.network.host("10.0.0.1")
        server = compose(config, collect(), host, host, random.Random(0))
        server.privilegedStartService()
        server.startService()
        self.network.advance(1)
        self.readers = [self.ask(number) for number in range(size)]
        self.network.advance(0.002)

    def ask(self, number: int) -> Reader:
        reader = Reader()
        port = self.network.host(f"10.1.{number >> 8}.{number & 255}").listenUDP(2000, reader)
        port.write(b"\0\1f\0octet\0", ("10.0.0.1", 69))
        if number % 100 == 99:
            self.network.advance(0.002)
        return reader


def transferBegins(size: int) -> tuple[Callable[[], object], int]:
    """One more transfer begins: request, first block."""
    busy = Busy(size)
    return lambda: (busy.ask(size), busy.network.advance(0.002)), 1


def blockSent(size: int) -> tuple[Callable[[], object], int]:
    """One of the transfers acknowledges a block, and gets the next."""
    busy = Busy(size)
    assert busy.readers[size // 2].server is not None
    return lambda: (busy.readers[size // 2].acknowledge(1), busy.network.advance(0.002)), 1


@cache
def _directory(size: int) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="growth-")
    for number in range(size):
        os.close(os.open(f"{folder.name}/file{number:06}.img", os.O_CREAT | os.O_WRONLY))
    os.utime(folder.name, (1, 1))
    return folder


def nameFound(size: int) -> tuple[Callable[[], object], int]:
    """A file is opened and closed, in a directory of so many."""
    root = Root(_directory(size).name)
    _closed(root, (b"file000001.img",))
    return lambda: _closed(root, (b"file000007.img",)), 1


def caseFound(size: int) -> tuple[Callable[[], object], int]:
    """A file whose name has other letters is opened (C{ignore-case}), in a directory of so many, read before."""
    root = Root(_directory(size).name, ignoreCase=True)
    _closed(root, (b"FILE000001.img",))
    return lambda: _closed(root, (b"FILE000007.img",)), 1


def _closed(root: Root, parts: tuple[bytes, ...]) -> None:
    os.close(root.openFile(parts))


#: What is measured, with its name in the table, and the sizes that it is measured at.
ROWS: dict[str, tuple[Row, tuple[int, ...]]] = {
    "a member joins a group (multicast)": (turnJoins, SIZES),
    "a member joins a group (slam)": (sweepJoins, SIZES),
    "all members leave at once, each": (turnLeaves, SIZES),
    "a group gets an address": (groupsAllocated, SIZES),
    "a request meets rules by network": (rulesByNetwork, SIZES),
    "a request meets rules by name": (rulesByName, SIZES),
    "a file of an MTFTP map is read": (mapRead, SIZES),
    "a rule of a service file is read": (serviceFileRead, SIZES),
    "a listener confirms": (confirmed, SIZES),
    "a transfer begins": (transferBegins, TRANSFERS),
    "a block is acknowledged, the next sent": (blockSent, TRANSFERS),
    "a file is opened": (nameFound, NAMES),
    "a file is found by ignore-case": (caseFound, NAMES),
}


@dataclass(frozen=True)
class Figures:
    """
    One row of the table.

    @ivar costs: microseconds of one thing, by size.
    """

    name: str
    costs: dict[int, float]

    @property
    def growth(self) -> float:
        """The cost at the largest size divided by that at the smallest."""
        return self.costs[max(self.costs)] / self.costs[min(self.costs)]


@contextmanager
def _noCollector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def measure(row: Row, size: int, runs: int = RUNS) -> float:
    """Return the least cost of one thing, in microseconds of the processor."""
    least = float("inf")
    for _ in range(runs):
        act, things = row(size)
        with _noCollector():
            began = time.process_time_ns()
            act()
            least = min(least, (time.process_time_ns() - began) / 1000 / things)
    return least


#: The name of the second table, for C{--only}.
SHORT = "descriptors short"
#: Descriptors that a server may have, as by C{ulimit -n}, and clients that ask it at once.
DESCRIPTORS, CLIENTS = 1024, (128, 256, 512)


@dataclass(frozen=True)
class Short:
    """
    One row of the second table.

    @ivar served: of so many clients at once, how many had the whole file.
    @ivar seconds: until the last one was done.
    """

    clients: int
    served: int
    seconds: float


def short(clients: int) -> Short:
    """Serve so many clients at once by a castd that has few descriptors."""
    data = os.urandom(20_000)
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        (Path(folder) / "root").mkdir()
        (Path(folder) / "root" / "file").write_bytes(data)
        server = lab.Alone(Path(folder), {"content": [{"directory": {"path": f"{folder}/root"}}]}, DESCRIPTORS)
        try:
            peers = [lab.Peer(server.port, "file") for _ in range(clients)]
            began = time.monotonic()
            lab.served(peers, 60)
            return Short(clients, sum(peer.data == data for peer in peers), time.monotonic() - began)
        finally:
            server.end()


def shortTable(found: list[Short]) -> list[str]:
    """Return the lines of the table of a server that is short of descriptors, in Markdown."""
    lines = [f"| clients at once, `ulimit -n {DESCRIPTORS}` | served | all done after |", "|---|---|---|"]
    return [*lines, *(f"| {each.clients} | {each.served} | {each.seconds:.1f} s |" for each in found)]


def table(found: list[Figures]) -> list[str]:
    """Return the lines of the table, in Markdown."""
    lines = ["| what | µs, at so many | µs, at so many | µs, at so many | grows |", "|---|---|---|---|---|"]
    for each in found:
        costs = " | ".join(f"{cost:,.1f} at {size:,}" for size, cost in each.costs.items())
        lines.append(f"| {each.name} | {costs} | × {each.growth:.1f} |")
    return lines


def draw(found: list[Figures], descriptors: list[Short], path: Path) -> None:
    """Write a plot of all rows: cost against size, both logarithmic; and below it of the second table."""
    # Of the plot alone, so it is not needed for the table.
    from matplotlib import pyplot

    figure, (axes, few) = pyplot.subplots(2, 1, figsize=(9, 9), height_ratios=(3, 1), layout="constrained")
    for number, each in enumerate(found):
        axes.plot(list(each.costs), list(each.costs.values()), "o-^-s-"[2 * (number // 10) % 6 :][:2], label=each.name)
    axes.set(xscale="log", yscale="log", xlabel="members, groups, rules, files or transfers", ylabel="µs of the CPU")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    few.plot([each.clients for each in descriptors], [each.seconds for each in descriptors], "o-")
    for each in descriptors:
        few.annotate(f"{each.served} served", (each.clients, each.seconds), (5, -12), textcoords="offset points")
    few.set(ylim=(0, None), xlabel=f"clients at once, ulimit -n {DESCRIPTORS}", ylabel="s until all are done")
    few.grid(visible=True, alpha=0.3)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def section(found: list[Figures], descriptors: list[Short]) -> str:
    """Return what C{docs/benchmarks.md} says of these figures."""
    return "\n".join(
        [
            GROWTH,
            "",
            f"{today()}. By `python benchmarks/growth.py`: the least of {RUNS} runs, processor time of one",
            "such thing at each size. What is flat costs the same however many there are.",
            "",
            "![processor time of one thing, against how many there are](growth.svg)",
            "",
            *table(found),
            "",
            "A server that is short of descriptors does not answer who would need one more; its client asks again.",
            "",
            *shortTable(descriptors),
            "",
        ]
    )


@click.command()
@click.option("--only", default="", help="Rows whose names contain this.")
@click.option("--runs", default=RUNS, show_default=True)
@click.option("--docs", is_flag=True, help="Write the section of docs/benchmarks.md, and docs/growth.svg.")
def main(only: str, runs: int, docs: bool) -> None:
    """Print the table."""
    found = []
    for name, (row, sizes) in ROWS.items():
        if only in name:
            found.append(Figures(name, {size: measure(row, size, runs) for size in sizes}))
            click.echo(f"{name}: × {found[-1].growth:.1f}", err=True)
    descriptors = [short(clients) for clients in CLIENTS] if only in SHORT else []
    click.echo("\n".join([*table(found), "", *shortTable(descriptors)]))
    if docs:
        page = DOCS / "benchmarks.md"
        before, heading, _ = page.read_text().partition(GROWTH)
        if not heading:
            raise click.ClickException(f"{page} has no section {GROWTH!r}")
        page.write_text(before + section(found, descriptors))
        draw(found, descriptors, DOCS / "growth.svg")


if __name__ == "__main__":
    main()
