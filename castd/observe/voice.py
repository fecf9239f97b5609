"""
Leaves out of the log what Twisted says of its own at level info: that a factory starts, that the main loop ends.

castd says what an operator needs of that in its own words (C{listening}, C{started}, C{stopping}, C{stopped}).
Warnings and tracebacks are passed on, and so is all that other programs log through Twisted.
"""

from __future__ import annotations

import re

from twisted.logger import LogEvent, LogLevel, formatEvent

#: What Twisted's ports and factories say through its old interface, which tells no source.
_OLD = re.compile(
    r"\((?:TCP|UDP|UNIX|<class ').*Port .*Closed\)|.+ starting on .+|(?:Starting|Stopping) (?:factory|protocol) <.+"
)
_QUIET = (LogLevel.debug, LogLevel.info)


def isTwistedsOwn(event: LogEvent) -> bool:
    """Return whether an event is a line of Twisted's own that says nothing to an operator."""
    if "event" in event or "log_failure" in event or event.get("log_level", LogLevel.info) not in _QUIET:
        return False
    source = str(event.get("log_namespace", ""))
    if source.startswith("twisted."):
        return True
    return source in ("", "-", "log_legacy") and _OLD.fullmatch(formatEvent(event)) is not None
