"""
A transfer whose cast is made only when something has to be decided is told by nothing from one that has it throughout.

Two servers hear the same script: answers as predicted, late, twice and wrong; noise, strangers, requests that are
repeated, errors, full sockets, timers, files that change.  One makes the cast of each transfer at once.  After each
event both have sent the same octets, have logged the same, and would be in the same state if their casts were asked.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from castd.cast.lateturn import LateTurn
from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.net.unicast_ports import UnicastPort
from castd.server import cast_protocol
from castd.server.cast_protocol import CastProtocol
from tests.support.clients.tftp import rrq
from tests.support.log import plainFields
from tests.support.quick import slowBut
from tests.support.side import FILES, Side, act, ask, script, together, unnumbered
from tests.support.turns import state, toldTurn

SEEDS = range(int(os.environ.get("CASTD_SCRIPTS", "15")))


class TurnSide(Side):
    """
    A server that makes casts at once, or late.

    @ivar unasked: how many transfers have ended without a cast.
    """

    def __init__(self, clients: int, late: bool) -> None:
        super().__init__(False, clients)
        self.late = late
        self.unasked = 0
        self.names = [each.getsockname() for each in self.clients]

    def play(self, action: Callable[[Side], object]) -> None:
        mayBe, leave = cast_protocol._mayBeUnasked, CastProtocol._leaveUnasked

        def counted(cast: CastProtocol, receiver: Any) -> None:
            self.unasked += 1
            leave(cast, receiver)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cast_protocol, "_mayBeUnasked", lambda *terms: self.late and mayBe(*terms))
            patch.setattr(CastProtocol, "_leaveUnasked", counted)
            super().play(action)

    def turns(self) -> list[str]:
        """Return the state of each cast, with the numbers of the clients in place of their ports."""
        casts = sorted(self.listener.casts(), key=lambda cast: cast.opened)
        told = [str(state(toldTurn(cast))) for cast in casts if isinstance(cast, CastProtocol)]
        return [unnumbered(each, (port for _, port in self.names)) for each in told]

    def fields(self) -> list[dict[str, object]]:
        """Return the fields of all events, without the numbers of ports."""
        return plainFields(self.events, "peer")


def calm(seed: int, clients: int) -> Iterator[Callable[[Side], object]]:
    """Yield a script in which most transfers come to their end."""
    chance = random.Random(seed)
    for client in range(clients):
        options = {"blksize": chance.choice([512, 1468, 8192])}
        if client % 2:
            options["windowsize"] = chance.choice([2, 5, 16])
        yield ask(client, rrq(chance.choice(["short", "long", "empty"]), **options))
    for _ in range(160):
        client = chance.randrange(clients)
        rare = chance.random()
        if rare < 0.02:
            yield act(chance, clients)
        elif rare < 0.04:
            yield ask(client, rrq("short", blksize=1024))
        else:
            yield together([answer(client), lambda side: side.reactor.advance(0.0002)])


def answer(client: int) -> Callable[[Side], object]:
    """Return what acknowledges the last datagram that a client has received."""

    def send(side: Side) -> None:
        blocks = [each for each in side.heard[client] if each[:2] in (b"\0\3", b"\0\6")]
        if blocks:
            side.send(client, b"\0\4" + (b"\0\0" if blocks[-1][1] == 6 else blocks[-1][2:4]))

    return send


@pytest.mark.loopback
@pytest.mark.parametrize("wild", [True, False])
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 3, SEEDS))
def test_sideBySide(seed: int, wild: bool, longVisits: None) -> None:
    """Whatever happens, both servers have said, logged and kept the same after each event."""
    clients = 1 + seed % 4
    sides = [TurnSide(clients, late) for late in (True, False)]
    for turn, action in enumerate(script(seed, clients) if wild else calm(seed, clients)):
        for side in sides:
            side.play(action)
        late, asked = sides
        where = f"after {turn} events"
        assert late.heard == asked.heard, where
        assert late.fields() == asked.fields(), where
        assert late.state() == asked.state(), where
        assert late.turns() == asked.turns(), where
    for side in sides:
        side.close()
    assert not asked.unasked


@pytest.mark.loopback
@pytest.mark.parametrize("windowsize", [1, 2, 8])
@pytest.mark.parametrize(("name", "blksize"), [("short", 1468), ("short", 5001), ("empty", 512), ("long", 4096)])
def test_theWholeWay(name: str, blksize: int, windowsize: int, longVisits: None) -> None:
    """A transfer in which everything is as predicted ends without a cast, with the events and blocks of any other."""
    sides = [TurnSide(1, late) for late in (True, False)]
    for side in sides:
        options = {"windowsize": windowsize} if windowsize > 1 else {}
        side.play(ask(0, rrq(name, blksize=blksize, **options)))
        for _ in range(len(FILES[name]) // blksize + 2):
            side.reactor.advance(0.0003)
            side.play(answer(0))
        assert not list(side.listener.casts())
        side.close()
    late, asked = sides
    assert (late.unasked, asked.unasked) == (1, 0)
    assert late.heard == asked.heard
    assert late.fields() == asked.fields()
    assert [each["outcome"] for each in late.events if each.get("event") == "received"] == ["done"]


@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_asIfItHadBeenThere(steps: int) -> None:
    """The cast that is made has each attribute of one that was told of all, whatever round-trip times were measured."""
    peer, policy, times = ("10.0.0.9", 2000), RetransmitPolicy(maxRepeatsUnheard=None), (0.003, 0.0002, 0.2, 0.001)
    asked, late = Turn(policy, 50), LateTurn(policy, 50, peer, 5.0)
    asked.join(peer, 5.0)
    asked.poll(5.0)
    assert asked.poll(5.0) is None
    assert late.deadline() == asked.deadline(5.0)
    assert late.mayBeginFastPath()
    assert asked.mayBeginFastPath()
    now = 5.1
    for step in range(steps):
        if step == 0:
            assert late.fastPathBegun(range(1), now) == asked.fastPathBegun(range(1), now)
            assert not late.mayBeginFastPath()
        else:
            seconds = times[step % 4]
            now += seconds
            assert late.answerMeasured(seconds) == asked.answerMeasured(seconds)
            assert late.rttConverged == asked.rttConverged
    last = range(steps - 1, steps)
    made = late.make()
    for turn in (made, asked):
        if steps:
            turn.fastPathLeft(last, now)
    assert state(made) == state(asked)
    assert late.peerState(last if steps else None) == asked.peerState(peer)


@pytest.mark.parametrize(
    "rule",
    [
        {"joinDelay": 0.2}, {"keepAliveInterval": 1.0}, {"deafAfterRepeats": 2}, {"foundPerAssumedDeaf": 1},
        {"reachabilityCheckAfter": 1.0}, {"addressBudget": 1.0}, {"turnBudget": 0.5},
        {"minTurnProgress": (0.1, 1.0)}, {"shortTurn": (3, 0.1)},
    ],
)  # fmt: skip
def test_groupsNeedTheirCast(rule: dict[str, Any]) -> None:
    """A policy with any rule for groups has its cast from the beginning."""
    assert RetransmitPolicy().forOne
    assert not RetransmitPolicy(**rule).forOne


class FirstSide(TurnSide):
    """
    A server that predicts the answer to its OACK, or asks the cast then.

    @ivar taken: of how many blocks of its bursts the socket takes in turn, 0: it takes nothing until the next event; a
        burst after that is taken whole.
    """

    def __init__(self, clients: int, predicts: bool, taken: list[int]) -> None:
        super().__init__(clients, True)
        self.predicts, self.taken = predicts, taken

    def jam(self, step: int) -> None:
        """Do nothing: after a send that fails another one would not, so that it matters how many there are."""

    def turns(self) -> list[str]:
        """As L{TurnSide.turns}, without what is of groups only and is not kept for a receiver that is alone."""
        names = "_blocksSentAt|_turnBlocks|hearsGroup|progressed|servedAt"
        return [re.sub(rf"'({names})': '[\w.]+'", "", each) for each in super().turns()]

    def play(self, action: Callable[[Side], object]) -> None:
        real = UnicastPort.writeBurst

        def writeBurst(port: UnicastPort, image: Any, step: int, *to: Any) -> int:
            if not self.taken or len(image) <= step:
                return real(port, image, step, *to)
            if self.taken[0] == 0:
                return 0
            return real(port, image[: self.taken.pop(0) * step], step, *to)

        if self.taken[:1] == [0]:
            del self.taken[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(UnicastPort, "writeBurst", writeBurst)
            if not self.predicts:
                patch.setattr(CastProtocol, "_predictFirstAnswer", lambda cast, turn: None)
            super().play(action)


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 6, range(6 * len(SEEDS))))
def test_firstAnswer(seed: int, longVisits: None) -> None:
    """
    Where the first blocks go out without asking the cast, windows too, of which the socket may take a part or nothing,
    the same is sent and logged, and the casts are in the same state, as where it is asked.
    """
    chance = random.Random(seed)
    clients, taken = 1 + seed % 3, [chance.choice([0, 0, 1, 2, 100]) for _ in range(seed % 4)]
    sides = [FirstSide(clients, predicts, taken[:]) for predicts in (True, False)]
    for turn, action in enumerate(script(seed, clients) if seed % 2 else calm(seed, clients)):
        for side in sides:
            side.play(action)
        predicting, asking = sides
        where = f"after {turn} events"
        assert predicting.heard == asking.heard, where
        assert predicting.fields() == asking.fields(), where
        assert predicting.turns() == asking.turns(), where
    for side in sides:
        side.close()
