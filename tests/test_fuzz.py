"""
Long hunts for surprising octets: whatever comes to whatever port, the server says little, keeps little, and goes on.

C{CASTD_FUZZ} is the number of datagrams of one hunt, C{CASTD_SEED} where it begins; a failure names its seed.
"""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from castd.packets.tftp import buildAck, buildData, buildError
from castd.request import Peer
from castd.testing import Mailbox, MemorySink, Network, pattern
from tests.tftp import SERVER, Stage, download, rrq, staged, wrq
from tests.vectors import vectors

pytestmark = pytest.mark.fuzz

DATAGRAMS = int(os.environ.get("CASTD_FUZZ", "20000"))
SEED = int(os.environ.get("CASTD_SEED", "1"))
#: Datagrams of one stage; memory is compared from stage to stage.
ROUND = 10_000
FILES = {"f": pattern(1300), "large": pattern(300_000), "empty": b"", "boot/x": pattern(5000)}

#: What mutations begin with: every packet of the vectors, and what is said in the middle of a transfer.
SEEDS = [
    *(bytes.fromhex(param.values[0]["hex"]) for param in vectors("tftp", "packets")),
    *(bytes.fromhex(param.values[0]["request_hex"]) for param in vectors("tftp", "negotiation")),
    *(rrq(name, blksize=512, windowsize=16, tsize=0) for name in FILES),
    rrq("large", mode="netascii"),
    rrq("large", rollover=1, timeout=1, utimeout=20000),
    wrq("up", blksize=1000, windowsize=4),
    *(buildAck(number) for number in (0, 1, 2, 3, 16, 32, 65535)),
    *(buildData(number, bytes(length)) for number in (0, 1, 2, 65535) for length in (0, 8, 511, 512, 513, 1000)),
    buildError(0, "enough"),
]


def mutated(chance: random.Random, datagram: bytes) -> bytes:
    """The same with a few octets changed, cut off, doubled, or another's tail."""
    octets = bytearray(datagram)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        at = chance.randrange(len(octets) + 1)
        match chance.randrange(6):
            case 0 if octets:
                octets[min(at, len(octets) - 1)] = chance.randrange(256)
            case 1 if octets:
                octets[min(at, len(octets) - 1)] ^= 1 << chance.randrange(8)
            case 2:
                del octets[at:]
            case 3:
                octets[at:at] = octets[: chance.randrange(64)]
            case 4:
                octets[at:at] = bytes(chance.choice((1, 2, 600, 3000)))
            case _:
                octets[at:] = chance.choice(SEEDS)[at:]
    return bytes(octets)


def noise(chance: random.Random) -> bytes:
    """One datagram that somebody might send."""
    if chance.random() < 0.15:
        return chance.randbytes(chance.choice((0, 1, 2, 3, 4, 5, 20, 516, 1472)))
    if chance.random() < 0.3:
        return buildAck(chance.choice((0, 1, chance.randrange(40), chance.randrange(65536))))
    return mutated(chance, chance.choice(SEEDS))


class Hunt:
    """
    One stage, some machines that send noise from a handful of ports, and some forged ones that never answer.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.network, self.chance = stage, stage.network, random.Random(seed)
        self.boxes = [
            Mailbox(self.network.host(f"10.0.0.{20 + number // 4}"), 2000 + number % 4) for number in range(40)
        ]
        self.targets: list[Peer] = [SERVER]

    def run(self, datagrams: int) -> None:
        """Send so many, answering to where answers came from, now and then letting time pass."""
        chance = self.chance
        for count in range(datagrams):
            box = chance.choice(self.boxes)
            target = SERVER if chance.random() < 0.4 else chance.choice(self.targets)
            box.send(noise(chance), target)
            if count % 16 == 0:
                self.network.advance(chance.choice((0.0005, 0.002, 0.02, 0.3, 2.0)))
                self.listen()

    def listen(self) -> None:
        """Remember the last ports that anything came from."""
        for box in self.boxes:
            self.targets += [letter.source for letter in box.take()[:4]]
        self.targets = [SERVER, *self.targets[-60:]]


def hunts() -> Iterator[tuple[int, int]]:
    """(seed, datagrams) of each stage."""
    left, seed = DATAGRAMS, SEED
    while left > 0:
        yield seed, min(left, ROUND)
        left, seed = left - ROUND, seed + 1


def staging(seed: int, single: bool) -> dict[str, Any]:
    """The keywords of a stage to hunt on: uploads are on, nothing is captured."""
    network = Network(seed, loss=0.02, duplicate=0.02, reorder=0.02, capture=False)
    return {
        "files": dict(FILES),
        "uploads": MemorySink({}, "overwrite", largest=50_000),
        "network": network,
        "options": {"singlePort": single},
        "seed": seed,
    }


def test_noise() -> None:
    """No traceback, no memory that grows from stage to stage, and after each a client is served as ever."""
    sizes: list[int] = []
    ends: set[str] = set()
    tracemalloc.start()
    try:
        for seed, datagrams in hunts():
            with staged(**staging(seed, single=seed % 4 == 3)) as stage:
                Hunt(stage, seed).run(datagrams)
                stage.sane()
                stage.network.link(loss=0.0, duplicate=0.0, reorder=0.0)
                stage.network.advance(3000)  # a timeout of 255 s may have been agreed on
                octets, _ = download(stage, stage.client(4000, "10.0.0.200"), rrq("large", blksize=1468))
                assert octets == FILES["large"], f"seed {seed}"
                stage.over()
                assert stage.site.uploads.open == {}, f"seed {seed}"
                held = stage.site.layouts.octets
                assert held <= stage.site.limits.memory
                ends |= {event["outcome"] for event in stage.told("received")}
                stage.events.clear()
            del stage
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The hunt went deep: transfers came to ends of every kind.
    assert DATAGRAMS < ROUND or ends >= {"done", "probe", "aborted", "silent"}
    # The first stage fills what is kept for all; after it there is nothing to keep.
    assert max(sizes) < sizes[0] + 200_000, sizes


def test_forgedAddresses() -> None:
    """
    An address that never answers is sent at most four datagrams for a transfer, none above its block size, and at most
    20 ERRORs a second with 20 in hand: noise in its name costs it little.
    """
    for seed, datagrams in hunts():
        with staged(**staging(seed, single=False)) as stage:
            network = stage.network
            network.link(loss=0.0, duplicate=0.0, reorder=0.0)
            chance = random.Random(seed)
            victims = [Mailbox(network.host(f"10.0.0.{20 + number}"), 2000) for number in range(20)]
            requests: Counter[Peer] = Counter()
            for count in range(min(datagrams, 3000)):
                victim = chance.choice(victims)
                request = mutated(chance, chance.choice(SEEDS))
                victim.send(request, SERVER)
                requests[victim.address] += 1
                if count % 50 == 0:
                    network.advance(chance.choice((0.01, 0.5)))
            network.advance(3000)
            for victim in victims:
                letters = victim.take()
                errors = [letter.time for letter in letters if letter.datagram[:2] == b"\0\5"]
                assert all(late - early > 1 for early, late in zip(errors, errors[41:], strict=False)), f"seed {seed}"
                transfers = {letter.source for letter in letters} - {SERVER}
                # Each request is answered once at the most, and what opened a transfer is repeated three times.
                assert len(letters) <= requests[victim.address] + 3 * len(transfers), f"seed {seed}"
                assert all(len(letter.datagram) <= 1472 for letter in letters), f"seed {seed}"
            stage.over()


def test_transfersGoOnInNoise() -> None:
    """A client that reads a large file while others throw noise at its very port gets the file, octet for octet."""
    for seed, datagrams in hunts():
        with staged(**staging(seed, single=False)) as stage:
            stage.network.link(loss=0.0, duplicate=0.0, reorder=0.0)
            hunt = Hunt(stage, seed)
            honest = stage.client(4000, "10.0.0.200")
            honest.send(rrq("large", blksize=512), SERVER)
            letter = honest.expect()
            tid, octets, number = letter.source, b"", 0
            budget = min(datagrams, 3000)
            while True:
                if number:
                    assert letter.datagram[:4] == b"\0\3" + number.to_bytes(2, "big"), f"seed {seed}"
                    octets += letter.datagram[4:]
                honest.send(buildAck(number), tid)
                if number and len(letter.datagram) < 516:
                    break
                for _ in range(min(budget, 5)):
                    hunt.chance.choice(hunt.boxes).send(noise(hunt.chance), hunt.chance.choice((SERVER, tid)))
                    budget -= 1
                letter = honest.expect()
                number += 1
            assert octets == FILES["large"], f"seed {seed}"
