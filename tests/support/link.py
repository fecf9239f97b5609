"""
Connects two halves of a transfer by a lossy link with a clock of its own, and provides the serving half of a read.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from castd.cast.policy import RetransmitPolicy
from castd.errors import Refused, WireError
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.options import OptionLimits, negotiate
from castd.packets.tftp import Ack, Error, Oack, buildOack, parse, parseRequest
from castd.receive.blocks import BlockSender
from castd.receive.retransmit import RetransmitTimer
from castd.receive.upload import UploadReceiver
from castd.request import Local, Request


def pattern(size: int) -> bytes:
    """Return so many octets that do not repeat at any block size: random, but always the same."""
    return random.Random(size).randbytes(size)


def asked(datagram: bytes) -> Request:
    """Return the request of an RRQ or WRQ."""
    ask = parseRequest(datagram)
    assert ask is not None
    return Request(("192.0.2.1", 1024), Local("192.0.2.2", 69), ask.name, ask.mode, ask.write, ask.options)


@dataclass
class Serve:
    """A server's half of one read: the least that RFC 1350 and 7440 require of a server."""

    content: bytes
    caps: OptionLimits = field(default_factory=OptionLimits)
    policy: RetransmitPolicy = field(default_factory=RetransmitPolicy)
    rollover: int | None = None
    outcome: str | None = None
    sender: BlockSender | None = None
    wait: RetransmitTimer = field(default_factory=lambda: RetransmitTimer(RetransmitPolicy()))
    opening: bytes = b""

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        if self.sender is None:
            return None, self._open(asked(datagram), now)
        if self.outcome is not None or parseRequest(datagram) is not None:
            return None, []
        packet = parse(datagram)
        if isinstance(packet, Error):
            self.outcome = ABORTED
        if not isinstance(packet, Ack):
            return None, []
        if self.opening:
            if packet.number != 0:
                return None, []
            self.opening = b""
            self.wait.progressed(now)
            self.wait.sent(now)
            return None, self.sender.window(now)
        datagrams = self.sender.acknowledged(packet.number, now, self.wait)
        if datagrams:
            self.wait.sent(now)
        if self.sender.done:
            self.outcome = DONE
        return None, datagrams

    def _open(self, request: Request, now: float) -> list[bytes]:
        terms = negotiate(request, self.caps, len(self.content))
        if self.rollover is not None:
            terms = replace(terms, rollover=self.rollover)
        self.sender = BlockSender(terms, len(self.content), lambda start, length: self.content[start : start + length])
        self.wait = RetransmitTimer(self.policy.withTimeout(terms.timeout))
        self.wait.start(now)
        if not terms.answer:
            return self.sender.window(now)
        self.opening = buildOack(terms.answer)
        return [self.opening]

    def poll(self, now: float) -> list[bytes]:
        if self.sender is None or self.outcome is not None:
            return []
        if self.wait.exhausted(now):
            self.outcome = SILENT
        elif self.wait.due(now):
            self.wait.repeated(now)
            return [self.opening] if self.opening else self.sender.resend(now)
        return []

    def deadline(self, now: float) -> float | None:
        return self.wait.deadline() if self.sender and self.outcome is None else None


class Accept:
    """A server that accepts a write: makes its L{UploadReceiver} from the first datagram."""

    def __init__(self, caps: OptionLimits | None = None) -> None:
        self.caps, self.policy = caps or OptionLimits(), RetransmitPolicy()
        self.uploadReceiver: UploadReceiver | None = None

    @property
    def outcome(self) -> str | None:
        return self.uploadReceiver.outcome if self.uploadReceiver else None

    @property
    def complete(self) -> bool:
        return self.uploadReceiver is not None and self.uploadReceiver.complete

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        if parseRequest(datagram) is None:
            assert self.uploadReceiver is not None
            return self.uploadReceiver.receive(datagram, now)
        if self.uploadReceiver is None:
            terms = negotiate(asked(datagram), self.caps)
            self.uploadReceiver = UploadReceiver(terms, self.policy.withTimeout(terms.timeout))
        elif self.uploadReceiver.blocks:
            return None, []
        return None, self.uploadReceiver.begin(now)

    def stored(self, now: float) -> list[bytes]:
        assert self.uploadReceiver is not None
        return self.uploadReceiver.stored(now)

    def poll(self, now: float) -> list[bytes]:
        return self.uploadReceiver.poll(now) if self.uploadReceiver else []

    def deadline(self, now: float) -> float | None:
        return self.uploadReceiver.deadline(now) if self.uploadReceiver else None


class Link:
    """
    Two ends, and the datagrams under way between them.  C{lost(sender, datagram, ordinal)} chooses lost datagrams.

    @ivar sent: (sender, datagram) of each datagram, lost ones too; sender 0 is the client, 1 the server.
    @ivar kept: the payloads that each end has stored.
    """

    def __init__(
        self,
        client: Any,
        server: Any,
        loss: float = 0.0,
        doubles: float = 0.0,
        delay: float = 0.001,
        spread: float = 0.0,
        seed: int = 1,
        lost: Callable[[int, bytes, int], bool] | None = None,
    ) -> None:
        self.ends = (client, server)
        self.now = 100.0
        self.kept = (bytearray(), bytearray())
        self.sent: list[tuple[int, bytes]] = []
        self._chance = random.Random(seed)
        self._loss, self._doubles, self._delay, self._spread, self._lost = loss, doubles, delay, spread, lost
        self._way: list[tuple[float, int, int, bytes]] = []

    def run(self, limit: float = 3600.0, datagrams: int = 1_000_000) -> Link:
        """Run until no timer is left; fail after C{limit} virtual seconds or so many datagrams."""
        end = self.now + limit
        self._send(0, self.ends[0].begin(self.now))
        while (instant := self._next()) is not None:
            assert instant <= end, "still talking"
            assert len(self.sent) <= datagrams, "chatter"
            self.now = max(self.now, instant)
            if self._way and self._way[0][0] <= self.now:
                _, _, to, datagram = heapq.heappop(self._way)
                self._deliver(to, datagram)
            else:
                for me, half in enumerate(self.ends):
                    self._send(me, half.poll(self.now))
        return self

    def _next(self) -> float | None:
        instants = [half.deadline(self.now) for half in self.ends] + [self._way[0][0] if self._way else None]
        return min((instant for instant in instants if instant is not None), default=None)

    def _deliver(self, to: int, datagram: bytes) -> None:
        half = self.ends[to]
        try:
            payload, answers = half.receive(datagram, self.now)
        except (WireError, Refused):
            return
        self.kept[to].extend(payload or b"")
        self._send(to, answers)
        if payload is not None and half.complete:
            self._send(to, half.stored(self.now))

    def _send(self, sender: int, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self.sent.append((sender, datagram))
            if self._chance.random() < self._loss or (self._lost and self._lost(sender, datagram, len(self.sent))):
                continue
            for _ in range(2 if self._chance.random() < self._doubles else 1):
                arrival = self.now + self._delay + self._chance.random() * self._spread
                heapq.heappush(self._way, (arrival, len(self.sent), 1 - sender, datagram))


def summary(datagram: bytes) -> str:
    """Return a datagram in short: C{"DATA 3"}, C{"ACK 0"}, C{"OACK"}, C{"ERROR 5"}, C{"RRQ"}."""
    ask = parseRequest(datagram)
    if ask is not None:
        return "WRQ" if ask.write else "RRQ"
    packet = parse(datagram)
    if isinstance(packet, Oack):
        return "OACK"
    return f"ERROR {packet.code}" if isinstance(packet, Error) else f"{type(packet).__name__.upper()} {packet.number}"
