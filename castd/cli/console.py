"""
Prints tables in which text is never markup, and which are wrapped on a terminal only.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from castd.files.names import printable

#: Columns of a line that no terminal shows: so wide that no table is folded for a program that reads it.
_UNFOLDED = 1 << 16


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
