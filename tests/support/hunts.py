"""
How a hunt goes: so many datagrams in rounds, each round on a ground of its own.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import _lru_cache_wrapper

from castd.request import Peer
from tests.support.ground import PORTS, SERVER, Ground, Honest
from tests.support.noise import answer, noise

DATAGRAMS = int(os.environ.get("CASTD_FUZZ", "4000"))
SEED = int(os.environ.get("CASTD_SEED", "1"))
#: Datagrams of one round; memory is compared from round to round.
ROUND = 10_000
#: Every so many datagrams time passes.
STEP = 16
PAUSES = (0.0005, 0.002, 0.02, 0.3, 2.0)
STRANGERS = [f"10.0.0.{20 + number}" for number in range(10)]


def emptied() -> None:
    """All that castd remembers to save time is forgotten, having been bounded."""
    gc.collect()
    for each in gc.get_objects():
        if isinstance(each, _lru_cache_wrapper) and each.__module__.startswith("castd"):
            assert each.cache_parameters()["maxsize"] is not None, each
            each.cache_clear()
    gc.collect()


def rounds(datagrams: int = DATAGRAMS) -> Iterator[tuple[int, int]]:
    """(seed, datagrams) of each round."""
    left, seed = datagrams, SEED
    while left > 0:
        yield seed, min(left, ROUND)
        left, seed = left - ROUND, seed + 1


class Hunt:
    """
    Strangers who hear what they are answered and speak to whoever answered, beside honest clients of every transport.

    @ivar honest: one client of each, begun anew as soon as the one before it is done.
    """

    def __init__(self, ground: Ground, kind: str) -> None:
        self.ground, self.kind = ground, kind
        self.network, self.chance = ground.network, ground.chance
        self.network.strangers.update(STRANGERS)
        self.sources: list[Peer] = [(host, 2000 + port) for host in STRANGERS for port in range(4)]
        self.honest: list[Honest] = []
        self._hosts = 0

    def begin(self) -> None:
        """One honest client of each transport."""
        for kind in PORTS:
            self._hosts += 1
            self.honest.append(Honest(self.ground, kind, f"10.0.0.{100 + self._hosts % 100}"))

    def run(self, datagrams: int) -> None:
        """Send so many, some of them to where answers came from, now and then letting time pass."""
        chance, network, kind = self.chance, self.network, self.kind
        target = (SERVER, PORTS[kind])
        for count in range(datagrams):
            what = chance.random()
            if network.answered and what < 0.3:
                destination, source, said = network.answered[-1 - int(6 * what) % len(network.answered)]
                network.forge(answer(chance, said, kind), source, destination)
            elif network.answered and what < 0.6:
                destination, source, said = chance.choice(network.answered)
                if what < 0.35:
                    source = chance.choice(self.sources)
                network.forge(noise(chance, kind), source, destination)
            else:
                network.forge(noise(chance, kind), chance.choice(self.sources), target)
            if count % STEP == 0:
                network.advance(chance.choice(PAUSES))
            if count % 2000 == 0:
                self.ground.bounded()
                if all(each.result is not None for each in self.honest):
                    self.begin()

    def finish(self) -> None:
        """The strangers fall silent; whoever is honest gets the file, if not yet."""
        where = f"{self.kind}, seed {self.ground.seed}"
        self.network.link(loss=0.0, duplicate=0.0, reorder=0.0)
        self.network.run(lambda: all(each.result is not None for each in self.honest), limit=600)
        wrong = [(each.kind, each.began, each.result) for each in self.honest if not each.right]
        assert not wrong, (where, wrong)
        self.ground.over()
