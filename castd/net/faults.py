"""
Log a fault of castd or of a plugin where nothing may be raised: in the loops that all ports and timers depend on.
"""

from __future__ import annotations

from contextlib import suppress

from twisted.logger import Logger

_log = Logger(namespace="castd")


def logFault(what: str) -> None:
    """
    Log the exception that is being handled with its traceback, and raise nothing.

    What an observer of the log raises is dropped: Twisted drops an C{Exception} of it, but not a C{SystemExit}.
    """
    with suppress(BaseException):
        _log.failure(what, event="fault")
