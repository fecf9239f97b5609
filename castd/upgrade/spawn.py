"""
Starts the process that takes over, as a child of this one, by the same command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from castd.upgrade.predecessor import ENVIRON

#: The descriptor of the child's end of the channel, in the child.
DESCRIPTOR = 3
#: Variables of a supervisor that are not passed to the child: they are for this process alone.
NOT_INHERITED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class ChildProcess(ProcessProtocol):
    """
    A castd that was started by this one.

    @ivar pid: the process id of the child.
    """

    pid: int = 0
    transport: IProcessTransport

    def __init__(self, exited: Callable[[str], object]) -> None:
        self._exited = exited

    def connectionMade(self) -> None:
        self.pid = self.transport.pid

    def processExited(self, reason: Failure) -> None:
        error, how = reason.value, "ended with status 0"
        if isinstance(error, ProcessTerminated):
            how = f"was ended by signal {error.signal}" if error.signal else f"ended with status {error.exitCode}"
        self._exited(how)

    def kill(self) -> None:
        """Kill the process, if it has not ended."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal.SIGKILL)


def command() -> list[str]:
    """Return the command line that started this process, with the interpreter and its options."""
    return [sys.executable, *sys.orig_argv[1:]]


def spawn(reactor: IReactorProcess, end: socket.socket, exited: Callable[[str], object]) -> ChildProcess:
    """
    Start the command of this process once more, with the same standard streams and with one end of the channel.

    @param exited: called when the child has ended, with a text that says how.
    """
    child = ChildProcess(exited)
    environ = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environ[ENVIRON] = str(DESCRIPTOR)
    argv = command()
    descriptors = {0: 0, 1: 1, 2: 2, DESCRIPTOR: end.fileno()}
    reactor.spawnProcess(child, argv[0], argv, environ, childFDs=descriptors)
    return child
