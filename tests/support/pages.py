"""
Reads the commands of a page in docs/, for tests that run them.

A comment above a block says what becomes of it, and is not seen by readers of the page::

    <!-- run: server -->                            run to its end
    <!-- run: server, stays -->                     started, and left running
    <!-- run: machine pc1, stays until "up:" -->    the same, and its output waited for
    <!-- run: client pc1 -->                        on a host of this name in the network of the server
    <!-- shows -->                                  lines that the output of the block before has, in this order
    <!-- writes: castd.yaml -->                     the content of a file; of one below /srv, if it begins so
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_BLOCK = re.compile(r"^<!-- (.+?) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = re.compile(r'run: ([\w ]+?)(, stays(?: until "(.+)")?)?')


@dataclass
class Block:
    """
    Commands of a page.

    @ivar where: the host that they are for.
    @ivar text: a script for sh; or the content of a file.
    @ivar stays: it is left running.
    @ivar until: the text in its output that is waited for.
    @ivar shows: lines of its output, in their order.
    @ivar file: the file that the text is the content of; C{""}: it is a script.
    """

    where: str
    text: str
    stays: bool = False
    until: str = ""
    file: str = ""
    shows: list[str] = field(default_factory=list)


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page that a test runs, in their order."""
    found: list[Block] = []
    for what, text in _BLOCK.findall((DOCS / page).read_text()):
        if what == "shows":
            found[-1].shows = [line for line in text.splitlines() if line]
        elif what.startswith("writes: "):
            found.append(Block("", text, file=what.removeprefix("writes: ")))
        else:
            matched = _RUN.fullmatch(what)
            assert matched, f"{page}: {what}"
            found.append(Block(matched[1], text, bool(matched[2]), matched[3] or ""))
    assert found, page
    return found


def missing(shows: list[str], output: str) -> list[str]:
    """Return the lines that an output does not have, in this order."""
    at, lacking = 0, []
    for line in shows:
        where = output.find(line, at)
        if where < 0:
            lacking.append(line)
        else:
            at = where + len(line)
    return lacking
