"""
Defines the outcomes of a receiver's transfer, and why a request port drops a datagram: words that are the same in the
log, in events and in metrics.
"""

from __future__ import annotations

from typing import Final, NamedTuple

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


class Outcome(NamedTuple):
    """
    What an outcome means, for all that ask whether a transfer has failed.

    @ivar text: its text in the log.
    @ivar answered: the receiver has answered what was sent to its address, and got what it wanted, as far as that is
        known.  All others are failures in the history, and have their packets captured.
    @ivar wanting: the receiver wanted more than it got, and what it has answered last may tell why.
    @ivar counted: it is a failure in the share of transfers that fail, on the dashboard and in the alert: nobody has
        decided it, and the receiver does not go on in another way.
    @ivar farewell: what a client is sent whose transfer the server ends so by itself; C{""}: the client knows.
    """

    text: str
    answered: bool = False
    wanting: bool = False
    counted: bool = False
    farewell: str = ""


#: All outcomes.
OUTCOMES: Final[dict[str, Outcome]] = {
    DONE: Outcome("complete", answered=True),
    PROBE: Outcome("asked for the size only", answered=True),
    UNCONFIRMED: Outcome("everything was sent, the last acknowledgement never came", answered=True),
    # Most have all they want; the answers of the others tell that they have not.
    EARLY: Outcome("stopped by the client before the end", answered=True, wanting=True),
    ABORTED: Outcome("ended by the client's own error", wanting=True, counted=True),
    SILENT: Outcome("the client fell silent", wanting=True, counted=True),
    CLOSED: Outcome("the client's port is closed", wanting=True, counted=True),
    DEAF: Outcome("hears no multicast, goes on by unicast", wanting=True),
    UNHEARD: Outcome(
        "answers what it is sent alone and nothing of the group: does a switch drop the multicast?", counted=True
    ),
    REPLACED: Outcome("the client has restarted", wanting=True),
    CHANGED: Outcome(
        "the file changed, or could not be read, while it was being sent", counted=True, farewell=ContentChanged.text
    ),
    STOPPED: Outcome("the server stopped", farewell="Server is stopping"),
    FAILED: Outcome("a fault in the server, see the traceback", counted=True, farewell="Internal error"),
}

#: The outcomes of a receiver that has answered what was sent to its address.
ANSWERED: Final = frozenset(word for word, each in OUTCOMES.items() if each.answered)
#: The outcomes of a receiver that wanted more than it got.
WANTING: Final = frozenset(word for word, each in OUTCOMES.items() if each.wanting)
#: The outcomes that are failures on the dashboard and in the alert.
COUNTED: Final = frozenset(word for word, each in OUTCOMES.items() if each.counted)
#: What a client is sent, by the outcomes of which it does not know.
FAREWELLS: Final = {word: each.farewell for word, each in OUTCOMES.items() if each.farewell}
#: The text of each outcome in the log.
MEANING: Final[dict[str, str]] = {word: each.text for word, each in OUTCOMES.items()}

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
