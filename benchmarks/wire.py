"""
Shows what troubles of the wire cost: real clients in network namespaces, with one trouble at a time.

    sudo .venv/bin/python benchmarks/wire.py                        # all cells, about ten minutes
    sudo .venv/bin/python benchmarks/wire.py --only "hop of 1400"   # those with these words in cause or name
    sudo .venv/bin/python benchmarks/wire.py --list

Octets are those of the server's interface, frames and all, as the switch counts them; the wires take one segment at a
time, so that a burst counts as the datagrams that it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.lab.cells import CELLS, Sample, play
from tests.support.lab.hall import sweep

Key = tuple[str, str]
HEADS = ("cause", "cell", "whole", "octets / file", "worst", "seconds", "worst", "s without the trouble")


def chosen(only: tuple[str, ...]) -> list[Key]:
    """Return the cells that have one of these words in cause or name; all if there are none."""
    return [key for key in CELLS if not only or any(word in ", ".join(key) for word in only)]


def played(key: Key) -> Sample:
    """Play a cell in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="castd-wire-"))
    folder.chmod(0o755)
    try:
        return play(folder / "hall", CELLS[key])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def printTable(samples: dict[Key, list[Sample]], console: Console) -> None:
    """Print the table: medians, and the worst."""
    table = Table(title="What troubles of the wire cost")
    for head in HEADS:
        table.add_column(head)
    for key, runs in samples.items():
        ratios, seconds = [run.ratio for run in runs], [run.seconds for run in runs]
        table.add_row(
            *key,
            f"{sum(run.whole for run in runs)}/{sum(run.clients for run in runs)}",
            f"{median(ratios):.3f}",
            f"{max(ratios):.3f}",
            f"{median(seconds):.2f}",
            f"{max(seconds):.2f}",
            f"{median(run.hearing for run in runs):.2f}" if CELLS[key].deaf else "",
        )
    console.print(table)


@click.command()
@click.option("--runs", default=1, show_default=True, help="of each cell")
@click.option("--only", multiple=True, help="words in the cause or the name of the cells; all without it")
@click.option("--list", "listed", is_flag=True, help="name the cells")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="where to write every run")
def main(runs: int, only: tuple[str, ...], listed: bool, out: Path | None) -> None:
    """Show what troubles of the wire cost."""
    console = Console(width=150 if not sys.stdout.isatty() else None)
    keys = chosen(only)
    if listed:
        for key in keys:
            console.print(": ".join(key))
        return
    sweep()
    samples: dict[Key, list[Sample]] = {}
    for key in keys:
        for _ in range(runs):
            sample = played(key)
            samples.setdefault(key, []).append(sample)
            console.print(f"{': '.join(key)}: {sample}", soft_wrap=True)
    printTable(samples, console)
    if out is not None:
        rows = [{"cause": key[0], "cell": key[1], **vars(run)} for key, found in samples.items() for run in found]
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
