"""
Many castd from one: a process that has all of castd imported, and for each line it reads is forked into a server.

A server that is to be killed a hundred times then begins in milliseconds, and is in all else what C{castd serve} is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MOTHER = """
import os, signal, sys
import castd.cli.main, castd.cli.control, castd.service.bootstrap, castd.service.service
import twisted.internet.udp, twisted.internet.threads
from castd.config.plugin import collect
for each in collect().transports.values():
    each.options
assert "twisted.internet.reactor" not in sys.modules
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.argv[1:] = ["serve", "-c", line.strip()]
        sys.exit(castd.cli.main.main())
    print(child, flush=True)
"""


class Mother:
    """The process that is forked."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.log = folder / "log"
        self._children: list[int] = []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MOTHER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=tree,
                text=True,
                env={**os.environ, "PYTHONPATH": str(tree)},
            )

    def bear(self, conf: Path) -> int:
        """-> the process id of a new server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{conf}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        self._children.append(child)
        return child

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
