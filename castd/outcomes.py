"""
Defines the outcomes of a receiver's transfer, and why a request port drops a datagram: words that are the same in the
log, in events and in metrics.
"""

from __future__ import annotations

from typing import Final

from castd.errors import ContentChanged

DONE: Final = "done"
PROBE: Final = "probe"
UNCONFIRMED: Final = "unconfirmed"
EARLY: Final = "early"
ABORTED: Final = "aborted"
SILENT: Final = "silent"
CLOSED: Final = "closed"
DEAF: Final = "deaf"
UNHEARD: Final = "unheard"
REPLACED: Final = "replaced"
CHANGED: Final = "changed"
STOPPED: Final = "stopped"
FAILED: Final = "failed"

#: The outcomes of a receiver that has answered what was sent to its address.
ANSWERED: Final = frozenset({DONE, PROBE, UNCONFIRMED, EARLY})

#: The text of each outcome in the log.
MEANING: Final[dict[str, str]] = {
    DONE: "complete",
    PROBE: "asked for the size only",
    UNCONFIRMED: "everything was sent, the last acknowledgement never came",
    EARLY: "stopped by the client before the end",
    ABORTED: "ended by the client's own error",
    SILENT: "the client fell silent",
    CLOSED: "the client's port is closed",
    DEAF: "hears no multicast, goes on by unicast",
    UNHEARD: "answers what it is sent alone and nothing of the group: does a switch drop the multicast?",
    REPLACED: "the client has restarted",
    CHANGED: "the file changed, or could not be read, while it was being sent",
    STOPPED: "the server stopped",
    FAILED: "a fault in the server, see the traceback",
}

#: What a client is sent whose transfer the server ends by itself; in all other cases the client knows.
FAREWELLS: Final[dict[str, str]] = {
    CHANGED: ContentChanged.text,
    STOPPED: "Server is stopping",
    FAILED: "Internal error",
}

STRAY: Final = "stray"
BROADCAST: Final = "broadcast"
IMPLAUSIBLE: Final = "implausible"
REPETITIONS: Final = "repetitions"
COPIES: Final = "copies"
FULL: Final = "full"
DRAINING: Final = "draining"

#: Why a request port drops a datagram of which nothing is logged: it is no request, or one to a broadcast address that
#: is not to be answered; its sender cannot be a client; it repeats a request that was answered, too often, or is a late
#: copy of it; its group has no room now; the server stops.
DROPPED: Final = (STRAY, BROADCAST, IMPLAUSIBLE, REPETITIONS, COPIES, FULL, DRAINING)
