"""Measures what grows with the size of a server: C{python benchmarks/growth.py [--docs]}.

Each row does one thing at several sizes: members of a group, groups, rules, files. The figure is the processor time of
one such thing at that size, the least of several runs. What is flat costs the same at every size; the last column is
the cost at the largest size divided by that at the smallest, and is the one to look at, since it does not depend on the
machine. Everything is in memory: no packet is sent.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from castd import outcomes
from castd.cast.events import Leave
from castd.cast.policy import RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.cast.turn import Turn
from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.config.warnings import warningsOf
from castd.dialects.mtftp import readFiles
from castd.files.access import Rule, Rules
from castd.group_pool import GroupPool, GroupRange
from castd.options import groups
from castd.request import Peer
from castd.service.service import kinds

SIZES = (100, 1_000, 10_000)
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


def table(found: list[Figures]) -> list[str]:
    """Return the lines of the table, in Markdown."""
    lines = [f"| what | {' | '.join(f'{size:,}' for size in SIZES)} | grows |", f"|---|{'---|' * len(SIZES)}---|"]
    for each in found:
        costs = " | ".join(f"{each.costs[size]:,.1f}" for size in SIZES)
        lines.append(f"| {each.name} | {costs} | × {each.growth:.1f} |")
    return lines


@click.command()
@click.option("--only", default="", help="Rows whose names contain this.")
@click.option("--runs", default=RUNS, show_default=True)
def main(only: str, runs: int) -> None:
    """Print the table."""
    found = []
    for name, (row, sizes) in ROWS.items():
        if only in name:
            found.append(Figures(name, {size: measure(row, size, runs) for size in sizes}))
            click.echo(f"{name}: × {found[-1].growth:.1f}", err=True)
    click.echo("Microseconds of the processor, at so many members, groups, rules or files:\n")
    click.echo("\n".join(table(found)))


if __name__ == "__main__":
    main()
