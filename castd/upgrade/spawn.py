"""
The process that takes over is this one's child, started with the same command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from castd.upgrade.predecessor import ENVIRON

#: Where the child finds its end of the channel.
DESCRIPTOR = 3
#: What a supervisor has said to this process alone.
OURS = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class ChildProcess(ProcessProtocol):
    """
    The process.

    @ivar pid: its number.
    """

    pid = 0
    transport: Any

    def __init__(self, exited: Callable[[str], object]) -> None:
        self._exited = exited

    def connectionMade(self) -> None:
        self.pid = self.transport.pid

    def processExited(self, reason: Failure) -> None:
        value: Any = reason.value
        how = f"was ended by signal {value.signal}" if value.signal else f"ended with status {value.exitCode}"
        self._exited(how)

    def kill(self) -> None:
        """End it, if it has not ended."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal.SIGKILL)


def command() -> list[str]:
    """-> what this process was started by; the script and its options, and whatever the interpreter was told."""
    return [sys.executable, *sys.orig_argv[1:]]


def spawn(reactor: Any, end: socket.socket, exited: Callable[[str], object]) -> ChildProcess:
    """
    Start it, with our standard streams and its end of the channel.

    @param exited: called with what it ended with.
    """
    child = ChildProcess(exited)
    environ = {name: value for name, value in os.environ.items() if name not in OURS} | {ENVIRON: str(DESCRIPTOR)}
    argv = command()
    descriptors = {0: 0, 1: 1, 2: 2, DESCRIPTOR: end.fileno()}
    reactor.spawnProcess(child, argv[0], argv, environ, childFDs=descriptors)
    return child
