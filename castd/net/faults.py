"""
Log a fault of castd or of a plugin where nothing may be raised: in the loops that all ports and timers depend on, and
where transfers end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from twisted.logger import Logger

_log = Logger(namespace="castd")

T = TypeVar("T")


def logFault(what: str) -> None:
    """
    Log the exception that is being handled with its traceback, and raise nothing.

    What an observer of the log raises is dropped: Twisted drops an C{Exception} of it, but not a C{SystemExit}.
    """
    with suppress(BaseException):
        _log.failure(what, event="fault")


def askPlugin(question: Callable[[], T], otherwise: T, fault: str) -> T:
    """
    Return the answer of a plugin.

    @param otherwise: is returned if the plugin fails to answer.
    @param fault: what the log says then.
    """
    try:
        return question()
    except BaseException:
        logFault(fault)
        return otherwise
