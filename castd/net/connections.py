"""
Limit how many connections a stream port has, so that nobody who opens many keeps the others out.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import ITCPTransport


class LimitedConnection(Protocol):
    """
    Describes a connection that is counted.

    @ivar transport: its transport.
    @ivar answering: a whole question has come, and the answer is not given yet.
    """

    transport: ITCPTransport
    answering: bool


class ConnectionLimit:
    """
    Counts the connections of one port.  If there are too many, the oldest one that asks nothing leaves for a newcomer.

    While an answer is awaited a connection stays, and if that holds for all of them the newcomer is closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[LimitedConnection, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: LimitedConnection) -> None:
        """Count a connection that was opened, and close another one, or this one, if there are too many."""
        if len(self._open) >= self._most:
            idle = next((each for each in self._open if not each.answering), connection)
            self.leave(idle)
            idle.transport.abortConnection()
            if idle is connection:
                return
        self._open[connection] = None

    def leave(self, connection: LimitedConnection) -> None:
        """Count a connection no more: it was closed."""
        self._open.pop(connection, None)
