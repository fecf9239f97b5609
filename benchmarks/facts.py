"""Tells what machine a program of this folder runs on, and writes its tables into a page of C{docs/}."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import date
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
#: Begins the last section of docs/benchmarks.md, which growth.py writes; page.py writes what is before it.
GROWTH = "## What one more costs"


def processor() -> str:
    """@return: the name of the processor; C{"?"}: the system does not tell it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def today() -> str:
    """@return: date, processor and Python, as they stand above a table."""
    return f"{date.today()}, {processor()}, Python {platform.python_version()}"


def fillIn(page: str, program: str, lines: Iterable[str]) -> None:
    """
    Write lines into a page, in place of those between the marks of a program.

    @param page: the name of a page in C{docs/}.
    @param program: the name of a file in this folder; its marks stand in the page.
    @raise ValueError: they do not.
    """
    begin, end = (f"<!-- benchmarks/{program}: {word} -->\n" for word in ("begin", "end"))
    path = DOCS / page
    text = path.read_text()
    if text.count(begin) != 1 or end not in text.partition(begin)[2]:
        raise ValueError(f"{path} has no place for what {program} prints")
    before, _, rest = text.partition(begin)
    path.write_text("\n".join([before + begin, *lines, "", end]) + rest.partition(end)[2])
