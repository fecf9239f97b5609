"""
Who asks again is told from who asks once, and a repetition from a copy, wherever that decides who is served.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.dialects.mtftp_cast import CROWD, MOST_REMEMBERED, POLICY, MtftpCast
from castd.options import Limits
from castd.proxydhcp.limits import AnswerLimits
from castd.repetitions import SOONEST_REPETITION, Repetitions
from castd.server.admission import DISPLACED_RATE, Admission

MOST = 4
KEYS = st.integers(0, 2 * MOST)
#: Gaps on a grid, as sums of others are rounded in two ways.
GAPS = st.sampled_from((0.0, 0.125, 0.25, 1.0, 4.0, 4.125))
AFTER, UNTIL = 0.25, 4.0


def test_limits() -> None:
    """A request counts as a repetition from the least to the longest gap, both included."""
    asked: Repetitions[str] = Repetitions(30.0, MOST)
    asked.add("a", 0.0)
    found = [asked.asksAgain("a", now) for now in (0.0, 0.19, 0.2, 5.0, 30.0, 30.1)]
    assert found == [False, False, True, True, True, False]
    assert not asked.asksAgain("b", 2.0)
    asked.add("a", 32.0)
    assert asked.asksAgain("a", 33.0)
    asked.discard("a")
    asked.discard("b")
    assert not asked.asksAgain("a", 33.0)


def test_copiesChangeNothing() -> None:
    """However many copies come of one request, the next repetition counts from the request."""
    asked: Repetitions[str] = Repetitions(UNTIL, MOST, AFTER)
    for now in (0.0, 0.1, 0.2):
        asked.add("a", now)
    assert not asked.asksAgain("a", 0.24)
    assert asked.asksAgain("a", 0.25)


def test_whoGoesOnAsking() -> None:
    """Who asks again and again counts each time, and is remembered when others who asked once are forgotten."""
    asked: Repetitions[str] = Repetitions(UNTIL, MOST, AFTER)
    asked.add("patient", 0.0)
    for number in range(1, 20):
        assert asked.asksAgain("patient", number)
        asked.add("patient", number)
        for name in "abc":
            asked.add(f"{name}{number}", number)
    assert len(asked) == MOST


def test_theClockIsSetBack() -> None:
    """A clock that is set back makes nobody a copy of himself until it is there again."""
    asked: Repetitions[str] = Repetitions(UNTIL, MOST, AFTER)
    asked.add("a", 1000.0)
    assert not asked.asksAgain("a", 10.0)
    asked.add("a", 10.0)
    assert asked.asksAgain("a", 11.0)


@given(st.lists(st.tuples(KEYS, GAPS, st.booleans()), max_size=60))
def test_asSaid(words: list[tuple[int, float, bool]]) -> None:
    """
    Whatever is asked: who is remembered counts by his last request that was no copy, and those who asked last are
    remembered, so many of them.
    """
    asked: Repetitions[int] = Repetitions(UNTIL, MOST, AFTER)
    last: dict[int, float] = {}
    now = 0.0
    for key, gap, answered in words:
        now += gap
        for each in range(2 * MOST + 1):
            assert asked.asksAgain(each, now) == (each in last and AFTER <= now - last[each] <= UNTIL)
        if answered:
            asked.discard(key)
            last.pop(key, None)
        elif key not in last or now - last[key] >= AFTER:
            last.pop(key, None)
            last[key] = now
            asked.add(key, now)
            last = dict(list(last.items())[-MOST:])
        else:
            asked.add(key, now)
        assert len(asked) == len(last) <= MOST


# Those who use it: a copy that a forger sends of each of his datagrams gets him nothing, a repetition does.


def _inAFullHouse(gap: float) -> bool:
    """Return whether a full server, which has no more room to give to others, has some for who asks a second time."""
    admission = Admission(Limits(newPerPeer=10_000))
    admission.affordable = 0
    strangers = [(f"10.{number >> 8}.{number & 255}.9", 2000) for number in range(round(DISPLACED_RATE))]
    shed = True
    for now in (1.0, 1.0 + gap):
        assert shed
        for peer in strangers:
            admission.crowded(peer, now)
        shed = admission.sheds(("192.0.2.9", 2000), now, ()) is not None
    return not shed


def _atMtftp(gap: float, kept: bool) -> bool:
    """Return whether a crowd at MTFTP counts a request as a repetition, of one that was kept or was not."""
    cast = MtftpCast(POLICY, 40)
    crowd = [(f"10.0.{number >> 8}.{number & 255}", 2000) for number in range(MOST_REMEMBERED + 10)]
    for peer in crowd:
        cast.join(peer, 0.0, (range(1),))
    again = crowd[CROWD] if kept else crowd[-1]
    assert (cast.peerState(again) is not None) == kept
    cast.join(again, gap, (range(1),))
    return any(each.peer == again and each.askedTwice for each in cast.members)


def _atMtftpAtOnce(gap: float) -> bool:
    return _atMtftp(gap, kept=True)


def _atMtftpInVain(gap: float) -> bool:
    return _atMtftp(gap, kept=False)


def _atProxydhcp(gap: float) -> bool:
    """Return whether a machine is answered that asks again, when those who ask first have used up their part."""
    limits = AnswerLimits(10, 100)
    for now in (1.0, 1.5, 2.1):
        for number in range(20):
            limits.turn((now, number), now)
    assert limits.turn("again", 2.1) is None
    return limits.turn("again", 2.1 + gap) is not None


@pytest.mark.parametrize("users", [_inAFullHouse, _atMtftpAtOnce, _atMtftpInVain, _atProxydhcp])
@pytest.mark.parametrize(
    ("gap", "counts"), [(0.0, False), (0.9 * SOONEST_REPETITION, False), (1.25 * SOONEST_REPETITION, True)]
)
def test_copiesOfAForger(users: Callable[[float], bool], gap: float, counts: bool) -> None:
    """A copy of a request within the least gap counts as nothing; what an iPXE repeats after 0.25 s is a repetition."""
    assert users(gap) is counts
