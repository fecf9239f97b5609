"""
Runs the clients of benchmarks/soak.py: many in one process, each on a machine with an address of its own, whose wire
loses datagrams and which may die at any moment.  They are the receiving halves that `castd get` is made of.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from machines import Machine
from twisted.internet.defer import Deferred

from castd.client.client import fetch, send
from castd.client.transfer import ClientTransfer, TransferError
from castd.client.urls import parseUrl
from castd.receive.group import SbroadcastDownload
from castd.receive.options import RequestedOptions
from castd.testing import ReceivedFile


@dataclass
class Tally:
    """Counts of all transfers: by kind of transfer and result, and by reason of failure."""

    asked: Counter[str] = field(default_factory=Counter)
    complete: Counter[str] = field(default_factory=Counter)
    died: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    octets: int = 0
    hostile: int = 0


@dataclass(frozen=True)
class Shop:
    """
    The files of the server, for the clients.

    @ivar right: -> whether these octets are the file of this name, as the server has or had it.
    @ivar stored: -> whether an upload of this name has arrived with this content; the upload is removed.
    @ivar names: files for each scheme; for C{slam}, the ends of the URLs.
    """

    server: str
    right: Callable[[str, bytes], bool]
    stored: Callable[[str, bytes], bool]
    names: dict[str, tuple[str, ...]]


class Crowd:
    """
    Keeps a number of machines busy.

    @ivar hosts: the addresses of the machines.
    """

    #: Kinds of transfers, how often each begins, and how many machines begin together.
    KINDS = (
        ("lockstep", 30, 1),
        ("window", 30, 1),
        ("upload", 15, 1),
        ("multicast", 5, 10),
        ("sbroadcast", 5, 8),
        ("mtftp", 4, 8),
        ("slam", 4, 8),
    )

    def __init__(
        self, reactor: Any, shop: Shop, hosts: list[str], chance: random.Random, loss: float, deaths: float
    ) -> None:
        """
        @param loss: the share of datagrams that each wire loses, either way.
        @param deaths: the share of machines that die; three times as many of those that are the first in a group.
        """
        self.reactor, self.shop, self.hosts, self.chance = reactor, shop, hosts, chance
        self.loss, self.deaths = loss, deaths
        self.tally = Tally()
        self.busy = 0
        self._number = 0
        self._said: deque[bytes] = deque(maxlen=512)
        self._tids: deque[int] = deque(maxlen=64)

    def seen(self, addr: Any) -> None:
        if not self._tids or addr[1] != self._tids[-1]:
            self._tids.append(addr[1])

    def said(self, datagram: bytes) -> None:
        self._said.append(datagram)

    # Clients.

    def fill(self, wanted: int) -> None:
        """Start machines until so many are busy."""
        while self.busy < wanted:
            kind, _, most = self.chance.choices(self.KINDS, [weight for _, weight, _ in self.KINDS])[0]
            name = self.chance.choice(self.shop.names[kind])
            for number in range(self.chance.randint(1, most)):
                self.busy += 1
                delay = self.chance.random() * (0.0 if most == 1 else 1.0) * (number > 0)
                self.reactor.callLater(delay, self._begin, kind, name, number == 0 and most > 1)

    def _begin(self, kind: str, name: str, first: bool) -> None:
        machine = Machine(self, self.chance.choice(self.hosts))
        self.tally.asked[kind] += 1
        running = Deferred.fromCoroutine(self._one(kind, name, machine, first))
        running.addErrback(self._failed, kind).addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self.busy -= 1

    def _failed(self, failure: Any, kind: str) -> None:
        self.tally.wrong[kind] += 1
        self.tally.why[f"{kind}: {failure.getTraceback()}"] += 1

    async def _one(self, kind: str, name: str, machine: Machine, first: bool) -> None:
        copy = ReceivedFile()
        mine = b""
        if kind == "upload":
            self._number += 1
            name, mine = f"up/{self._number}", self.chance.randbytes(self.chance.choice((0, 512, 5000, 60_000)))
        transfer = self._transfer(kind, name, machine, copy, mine)
        if self.chance.random() < self.deaths * (3 if first else 1):
            self.reactor.callLater(self.chance.random() ** 2 * 2, self._die, machine, transfer)
        try:
            report = await transfer
        except TransferError as error:
            if machine.dead:
                self.tally.died[kind] += 1
            else:
                self.tally.failed[kind] += 1
                self.tally.why[f"{kind}: {error.outcome}: {error}"] += 1
            return
        if not machine.dead:
            await report.closed
        right = self.shop.stored(name, mine) if kind == "upload" else self.shop.right(name, bytes(copy.data))
        (self.tally.complete if right else self.tally.wrong)[kind] += 1
        self.tally.octets += report.octets

    def _die(self, machine: Machine, transfer: Deferred[Any]) -> None:
        if not transfer.called:
            machine.die(frozen=self.chance.random() < 0.5)
            transfer.cancel()

    def _transfer(self, kind: str, name: str, machine: Machine, copy: ReceivedFile, mine: bytes) -> Deferred[Any]:
        server, chance = self.shop.server, self.chance
        if kind == "sbroadcast":
            collector = SbroadcastDownload(name, "255.255.0.0")
            return ClientTransfer(machine, collector, (server, 69), copy, None).start()
        scheme = {"multicast": "tftm", "mtftp": "mtftp", "slam": "slam"}.get(kind, "tftp")
        url = parseUrl(f"{scheme}://{server}/{name}" if scheme != "slam" else f"slam://{server}{name}")
        requested = RequestedOptions(chance.choice((None, 1024, 1428)))
        if kind == "window":
            requested = RequestedOptions(chance.choice((512, 1428)), chance.choice((2, 8, 16)))
        if kind == "upload":
            return send(machine, url, len(mine), lambda offset, length: mine[offset : offset + length], requested)
        return fetch(machine, url, copy, requested)

    # Attackers.

    def hostile(self, ports: tuple[int, ...]) -> tuple[bytes, int]:
        """
        Return one hostile datagram (random octets, or a recorded datagram, often with changes), and the port to send it
        to.
        """
        chance = self.chance
        port = chance.choice(ports) if chance.random() < 0.5 or not self._tids else chance.choice(self._tids)
        datagram = bytearray(chance.choice(self._said)) if self._said else bytearray()
        if chance.random() < 0.3:
            datagram = bytearray(chance.randbytes(chance.randint(0, 600)))
        elif chance.random() < 0.7:
            for _ in range(chance.randint(1, 4)):
                at = chance.randint(0, len(datagram))
                datagram[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        self.tally.hostile += 1
        return bytes(datagram), port
