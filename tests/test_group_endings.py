"""What is told of how a member of a group has ended is what the server knows: no loss that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from castd.observe.history import entryOf
from castd.packets.tftp import buildAck, buildError
from castd.testing import pattern
from tests.support.clients.multicast import Member
from tests.support.clients.tftp import rrq
from tests.support.stage import AFILE, ASKED, GroupStage

#: The last block of AFILE.
LAST = 6
FILES = {"afile": AFILE, "next": pattern(100)}

#: What a member does at its end; it is given its stage.
End = Callable[[GroupStage, Member], None]


def silent(stage: GroupStage, member: Member) -> None:
    """Say nothing more; its port stays open."""


def closes(stage: GroupStage, member: Member) -> None:
    """Close its port: its host reports that."""
    member.client.port.stopListening()


def errs(stage: GroupStage, member: Member) -> None:
    member.client.send(buildError(3, "no room"), member.tid)
    stage.network.advance(0.01)


def goesOn(stage: GroupStage, member: Member) -> None:
    """Ask for the next file from the same port."""
    member.client.send(rrq("next"), stage.server)
    stage.network.advance(0.01)


def asksAgain(stage: GroupStage, member: Member) -> None:
    """Repeat its request, as if it had heard nothing, and then say nothing more."""
    member.client.send(rrq("afile", **ASKED), stage.server)
    stage.network.advance(0.01)


class Row(NamedTuple):
    """
    One combination.

    @ivar before: the blocks that were sent when it joins; minus 1: it is the first, and the master.
    @ivar said: the last number that it has acknowledged before its end; L{None}: it has sent its request alone.
    @ivar sent: the last block that has been sent at its end.
    @ivar again: everything is sent once more after that, for another member.
    """

    before: int
    said: int | None
    sent: int
    end: End
    outcome: str
    verdict: str | None
    again: bool = False


LISTENS, MASTER = 0, -1

TABLE = {
    # A listener that was never heard, as most are that behave well.
    "unheard, none": Row(LISTENS, None, 0, silent, "silent", "blocked"),
    "unheard, some": Row(LISTENS, None, 3, silent, "silent", "blocked"),
    "unheard, all": Row(LISTENS, None, LAST, silent, "unconfirmed", None),
    "unheard, closes, none": Row(LISTENS, None, 0, closes, "closed", "rejected"),
    "unheard, closes, some": Row(LISTENS, None, 3, closes, "closed", "rejected"),
    "unheard, closes, all": Row(LISTENS, None, LAST, closes, "unconfirmed", None),
    "unheard, error, some": Row(LISTENS, None, 3, errs, "aborted", "client-error"),
    "unheard, error, all": Row(LISTENS, None, LAST, errs, "aborted", "client-error"),
    "unheard, goes on, some": Row(LISTENS, None, 3, goesOn, "replaced", "restarted"),
    "unheard, goes on, all": Row(LISTENS, None, LAST, goesOn, "unconfirmed", None),
    "unheard, asks again, all": Row(LISTENS, None, LAST, asksAgain, "silent", "blocked"),
    # One that has joined late.
    "late": Row(3, None, LAST, silent, "silent", "blocked"),
    "late, closes": Row(3, None, LAST, closes, "closed", "rejected"),
    "late, all again": Row(3, None, LAST, silent, "unconfirmed", None, again=True),
    "late, asks again, all again": Row(3, None, LAST, asksAgain, "unconfirmed", None, again=True),
    # A listener that has confirmed its announcement.
    "confirmed, none": Row(LISTENS, 0, 0, silent, "silent", "silent"),
    "confirmed, some": Row(LISTENS, 0, 3, silent, "silent", "silent"),
    "confirmed, all": Row(LISTENS, 0, LAST, silent, "unconfirmed", None),
    "confirmed, closes, some": Row(LISTENS, 0, 3, closes, "closed", "ended"),
    "confirmed, closes, all": Row(LISTENS, 0, LAST, closes, "unconfirmed", None),
    "confirmed, error, all": Row(LISTENS, 0, LAST, errs, "aborted", "client-error"),
    "confirmed, goes on, some": Row(LISTENS, 0, 3, goesOn, "replaced", "restarted"),
    "confirmed, goes on, all": Row(LISTENS, 0, LAST, goesOn, "unconfirmed", None),
    "acknowledges the last": Row(LISTENS, LAST, LAST, silent, "done", None),
    # The master.
    "master, unheard": Row(MASTER, None, 0, silent, "silent", "blocked"),
    "master, unheard, closes": Row(MASTER, None, 0, closes, "closed", "rejected"),
    "master, unheard, goes on": Row(MASTER, None, 0, goesOn, "replaced", "restarted"),
    "master, some": Row(MASTER, 2, 3, silent, "silent", "silent"),
    "master, closes, some": Row(MASTER, 2, 3, closes, "closed", "ended"),
    "master, error, some": Row(MASTER, 2, 3, errs, "aborted", "client-error"),
    "master, goes on, some": Row(MASTER, 2, 3, goesOn, "replaced", "restarted"),
    "master, all but the last ACK": Row(MASTER, LAST - 1, LAST, silent, "unconfirmed", None),
    "master, closes, all": Row(MASTER, LAST - 1, LAST, closes, "unconfirmed", None),
    "master, error, all": Row(MASTER, LAST - 1, LAST, errs, "aborted", "client-error"),
    "master, goes on, all": Row(MASTER, LAST - 1, LAST, goesOn, "unconfirmed", None),
    "master, asks again, all": Row(MASTER, LAST - 1, LAST, asksAgain, "silent", "blocked"),
    "master, done": Row(MASTER, LAST, LAST, silent, "done", None),
    # One that asked for a block in vain, and was silent since: others were sent that block later.
    "master, some, then all": Row(MASTER, 2, 3, silent, "silent", "silent", again=True),
}


def play(stage: GroupStage, row: Row) -> Member:
    """Let the member of this row, and those that it needs beside it, send and hear what the row says."""
    if row.before == MASTER:
        member = stage.join(1)
        if row.said is not None:
            member.ack(*range(row.said + 1))
    else:
        first = stage.join(2)
        first.ack(*range(row.before))
        member = stage.join(1)
        first.ack(*range(row.before, row.sent))
        if row.said is not None:
            member.ack(row.said)
        # It leaves the turn to nobody before the end.
        stage.network.advance(0.01)
        row.end(stage, member)
        if row.again:
            other = stage.join(3)
            first.ack(LAST)
            other.client.expect(2)
            other.ack(*range(LAST + 1))
        elif row.sent == LAST:
            first.ack(LAST)
        else:
            first.error()
        return member
    row.end(stage, member)
    if row.again:
        other = stage.join(2)
        stage.network.advance(3.2)
        other.ack(*range(LAST + 1))
    return member


def test_closedPortsCostNoTime() -> None:
    """Who waits behind fifty that have left, and whose hosts say so, has the turn in a moment."""
    with GroupStage() as stage:
        first = stage.join(1)
        gone = [stage.join(number) for number in range(2, 52)]
        last = stage.join(100)
        first.ack(*range(LAST))
        for member in gone:
            member.client.port.stopListening()
        first.ack(LAST)
        stage.network.advance(0.1)
        assert last.roles() == ["1"]
        last.ack(LAST)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done"] + 50 * ["unconfirmed"] + ["done"]


def test_oneReportIsNoEnd() -> None:
    """A master whose port was reported closed once, and which answers when it is asked again, goes on."""
    with GroupStage() as stage:
        first, second, third = stage.join(1), stage.join(2), stage.join(3)
        first.ack(*range(LAST))
        first.client.send(buildAck(LAST), first.tid)
        (cast,) = stage.casts()
        stage.network.advance(0.0005)
        cast.peerUnreachable(second.client.address)
        stage.network.advance(0.001)
        assert second.roles() == ["1", "1"]
        assert third.told() == []
        assert second.ack(2) == [3]


@pytest.mark.parametrize(("end", "outcome", "verdict"), [(closes, "unconfirmed", None), (silent, "silent", "silent")])
def test_theOneThatItLacked(end: End, outcome: str, verdict: str | None) -> None:
    """A master whose port is closed may have had everything with the block that it asked for, and its ACK was lost."""
    with GroupStage(FILES) as stage:
        first, member, _ = stage.join(2), stage.join(1), stage.join(3)
        first.ack(*range(LAST + 1))
        assert member.ack(2) == [3]
        end(stage, member)
        stage.network.advance(90)
        (event,) = (each for each in stage.told("received") if each["peer"] == "10.0.0.11:2000")
        assert (event["outcome"], event.get("verdict")) == (outcome, verdict)


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_ending(row: Row) -> None:
    """Each combination has its outcome and verdict; and only an acknowledged file shows that the address is real."""
    with GroupStage(FILES) as stage:
        member = play(stage, row)
        stage.network.advance(90)
        told = [event for event in stage.told("received") if event["peer"] == ":".join(map(str, member.client.address))]
        (event,) = [each for each in told if each["name"] == "afile"]
        assert (event["outcome"], event.get("verdict")) == (row.outcome, row.verdict)
        assert entryOf(event).served is (row.outcome == "done")
        assert not any(each.group for each in stage.casts())
