"""
Prints tables in which text is never markup, and which are wrapped on a terminal only; opens standard streams that
whoever started castd has closed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from castd.files.names import printable

#: Columns of a line that no terminal shows: so wide that no table is folded for a program that reads it.
_UNFOLDED = 1 << 16
#: The standard streams in the order of their descriptors, with the mode in which each is opened.
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def openClosedStreams() -> None:
    """
    Open C{/dev/null} for each standard stream that is closed.

    Python has L{None} in its place.  Its descriptor would go to the next socket or file, which then gets what libraries
    and the interpreter write to standard error.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is not None:
            continue
        with suppress(OSError):  # without /dev/null, as in a chroot, the stream stays closed
            opened = os.open(os.devnull, os.O_RDWR)
            # The lowest one that is free, so the stream's own.  Processes that castd starts get it as well.
            os.set_inheritable(opened, opened == fd)
            setattr(sys, name, os.fdopen(opened, mode))


def makeConsole(stderr: bool = False) -> Console:
    """
    Return a console that shows all text as it is: brackets are no markup (C{[red]}), colons no picture (C{:1:}).

    What is not a terminal gets each row of a table on one line.
    """
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _UNFOLDED
    return console


def makeTable(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """
    Return a table with these columns, without lines around them.

    @param right: the columns whose text stands at the right.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in right else "left")
    return table


def addRow(table: Table, *cells: object) -> None:
    """Add a row to a table; characters that a terminal would obey are shown as C{\\xNN}, L{None} as nothing."""
    table.add_row(*("" if cell is None else printable(str(cell)) for cell in cells))
