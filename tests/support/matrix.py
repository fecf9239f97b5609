"""
Compares a table of seeded runs cell by cell with C{tests/runs.txt}: a slower timer shows as a changed cell.

A dialect adds rows by calling L{compare} in a test of its own: one row is one kind of client in all weathers.
C{CASTD_RUNS=write} in the environment writes the rows of a run into the file instead; then read the difference.  A
run in which clients are served no longer is not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RUNS = Path(__file__).parent.parent / "runs.txt"
HEAD = """\
What seeded runs on the virtual network cost: virtual seconds, datagrams of both sides.
Written by CASTD_RUNS=write; each row by its test, tests/test_matrix.py and those beside it.
"""


@dataclass(frozen=True)
class Weather:
    """The faults of the network for each datagram, in both directions."""

    name: str
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


WEATHERS = (
    Weather("no loss"),
    Weather("1 %", loss=0.01),
    Weather("5 %", loss=0.05),
    Weather("20 %", loss=0.2),
    Weather("twice", duplicate=0.05),
    Weather("disorder", reorder=0.05),
)

#: Runs a client, or several, in one weather.  -> virtual seconds and datagrams, or None: not all of them were served.
Run = Callable[[Weather], "tuple[float, int] | None"]


def _line(row: str, cells: list[str]) -> str:
    return " | ".join([f"{row:<22}", *(f"{cell:>15}" for cell in cells)]).rstrip()


def _stored(runs: Path) -> dict[str, list[str]]:
    rows = {}
    for line in runs.read_text().splitlines() if runs.exists() else ():
        name, *cells = (part.strip() for part in line.split("|"))
        if cells:
            rows[name] = cells
    return rows


def compare(row: str, run: Run, runs: Path = RUNS) -> None:
    """
    Run one row of the table in all weathers, and compare it.

    @param row: C{dialect: client}.
    @param runs: the file with the table.
    """
    results = [run(weather) for weather in WEATHERS]
    cells = ["failed" if result is None else f"{result[0]:.3f} s {result[1]:>5}" for result in results]
    stored = _stored(runs)
    if os.environ.get("CASTD_RUNS") == "write":
        stored.pop("", None)
        before = stored.get(row, ())
        worse = [
            weather.name for weather, old, new in zip(WEATHERS, before, cells, strict=False) if new == "failed" != old
        ]
        assert not worse, f"{row}: clients that were served are not any more: {', '.join(worse)}"
        stored[row] = cells
        names = sorted(stored)
        lines = [_line("", [weather.name for weather in WEATHERS]), *(_line(name, stored[name]) for name in names)]
        runs.write_text(HEAD + "\n" + "\n".join(lines) + "\n")
        return
    assert row in stored, f"{row} has no row in {runs.name}: write it with CASTD_RUNS=write"
    changed = {
        weather.name: (before, now)
        for weather, before, now in zip(WEATHERS, stored[row], cells, strict=True)
        if before.split() != now.split()
    }
    assert not changed, f"{row}: {changed}"
