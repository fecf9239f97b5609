"""
A member of a group: what the receiving halves of RFC 2090's C{multicast} and IBM's C{sbroadcast} have in common.

It hears blocks in any order, speaks as the master when it is told that it is one, and is an ordinary reader where the
server grants no group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from castd.cast.policy import RetransmitPolicy
from castd.errors import Unsupported, WireError
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Data, Error, Oack, Options, TftpRequest, buildAck, buildRequest, parse
from castd.receive.options import BadOffer, RequestedOptions
from castd.receive.piece import OffsetBlock
from castd.receive.retransmit import RetransmitTimer
from castd.receive.tftp import CLIENT_POLICY, TftpDownload

#: A listener that hears nothing for so long asks again, and after so many times gives up.
LISTENER_SILENCE, LISTENER_TRIES = 15.0, 3
#: After its last ACK a member stays for so long, since it may yet be asked what it lacks.  Seconds.
DALLY = 2.0
_MOST = 65535


class GroupDownload(ABC):
    """
    One file, by a group or by unicast.

    @ivar group: (address, port) to listen to, the address empty for broadcasts; L{None} as long as there is none.
    @ivar tid: the server's address and port, as the shell learns it with the first answer.
    @ivar master: it has the mastership.
    @ivar blocks: how many different ones have come; C{repeats}: times that a timer made it say something again.
    """

    #: The option that is asked for.
    option = ""

    def __init__(
        self, name: str, requested: RequestedOptions, policy: RetransmitPolicy = CLIENT_POLICY, value: str = ""
    ) -> None:
        self.group: tuple[str, int] | None = None
        self.tid: tuple[Any, ...] | None = None
        self.outcome: str | None = None
        self.complete = self.master = False
        self.size: int | None = None
        self.error: Error | None = None
        self.terms: AgreedOptions | None = None
        self.blocks = self.repeats = 0
        self._wishes = requested
        self._plain = TftpDownload(name, requested, "octet", policy)
        self._isPlain = False
        self._opening = buildRequest(TftpRequest(False, name, "octet", (*requested.options(), (self.option, value))))
        self._wait = RetransmitTimer(policy)
        self._heardAt = 0.0
        self._tries = 0
        self._have = bytearray(_MOST + 2)
        self._first = 1  # the first block that is lacking
        self._count: int | None = None
        self._dallyUntil: float | None = None

    @abstractmethod
    def _offer(self, value: str) -> bool:
        """
        Read the option's value and keep what it says of the group.

        @return: this client is the master.
        @raise WireError: unreadable.
        """

    @abstractmethod
    def _block(self, datagram: bytes, peer: Any) -> Data | None:
        """
        -> a block of this group, L{None}: it is not.

        @raise WireError: unreadable.
        """

    # The intake.

    def begin(self, now: float) -> list[bytes]:
        """-> the request."""
        self._heardAt = now
        self._wait.begin(now)
        self._plain.begin(now)
        return [self._opening]

    def receive(self, datagram: bytes, now: float) -> tuple[Any, list[bytes]]:
        """
        From the server to this client alone: an answer, or a block for one who hears no group.

        @return: (piece to keep or L{None}, datagrams to send).
        @raise WireError: unreadable.
        @raise BadOffer: an OACK that grants what was not asked for.
        """
        if self._isPlain:
            return self._asPlain(datagram, now)
        if self.terms is not None and (found := self._block(datagram, self.tid)) is not None:
            return self._took(found, now)
        packet = parse(datagram)
        if self.outcome is not None:
            return None, []
        if isinstance(packet, Error):
            self.error, self.outcome = packet, ABORTED if self._dallyUntil is None else DONE
            return None, []
        if isinstance(packet, Oack):
            value = next((text for name, text in packet.options if name.lower() == self.option), None)
            if value is not None:
                return None, self._granted(packet.options, value, now)
        if self.terms is not None:
            raise WireError("no part of a group's talk")
        self._isPlain = True
        return self._asPlain(datagram, now)

    def heard(self, datagram: bytes, peer: Any, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        From the group, or whoever sends to it.

        @return: as C{receive}.
        @raise WireError: unreadable.
        """
        if self.outcome is not None or self.terms is None:
            return None, []
        found = self._block(datagram, peer)
        return (None, []) if found is None else self._took(found, now)

    def stored(self, now: float) -> list[bytes]:
        """-> the last block's ACK; it is said again if the server asks."""
        if self._isPlain:
            said = self._plain.stored(now)
            self._mirror()
            return said
        self._dallyUntil = now + DALLY
        return [self._ack()]

    def poll(self, now: float) -> list[bytes]:
        """-> what to repeat.  Sets C{outcome} when patience is over."""
        if self._isPlain:
            said = self._plain.poll(now)
            self._mirror()
            return said
        if self._dallyUntil is not None:
            self.outcome = DONE if now >= self._dallyUntil else self.outcome
            return []
        if self.outcome is not None or self.complete:
            return []
        return self._pollListener(now) if self.terms is not None and not self.master else self._pollMaster(now)

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at."""
        if self._isPlain:
            return self._plain.deadline(now)
        if self.outcome is not None:
            return None
        if self._dallyUntil is not None or self.complete:
            return self._dallyUntil
        if self.terms is not None and not self.master:
            return self._heardAt + LISTENER_SILENCE
        return self._wait.deadline()

    # What it does.

    def _asPlain(self, datagram: bytes, now: float) -> tuple[Any, list[bytes]]:
        answer = self._plain.receive(datagram, now)
        self._mirror()
        return answer

    def _mirror(self) -> None:
        plain = self._plain
        self.outcome, self.complete, self.size = plain.outcome, plain.complete, plain.size
        self.error, self.terms, self.blocks, self.repeats = plain.error, plain.terms, plain.blocks, plain.repeats

    def _granted(self, options: Options, value: str, now: float) -> list[bytes]:
        """The first OACK says everything; a later one is about the mastership alone."""
        rest = tuple((name, text) for name, text in options if name.lower() != self.option)
        agreed = self._wishes.agree(rest)
        try:
            self.master = self._offer(value)
        except WireError as error:
            raise BadOffer(why=str(error)) from None
        if self.terms is None:
            self.terms, self.size = agreed, agreed.tsize
            self._count = None if self.size is None else self.size // agreed.blksize + 1
        self._heardAt, self._tries = now, 0
        self._wait.heard(now)
        self._wait.ask(now)
        if self.complete:
            # Once it is kept safely: before, the ACK would be taken for our consent.
            return [self._ack()] if self._dallyUntil is not None else []
        return [self._ack() if self.master else buildAck(0)]

    def _took(self, block: Data, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        terms = self.terms
        assert terms is not None
        if len(block.payload) > terms.blksize:
            raise Unsupported(why=f"a block of {len(block.payload)} octets where {terms.blksize} were agreed on")
        number, last = block.number, len(block.payload) < terms.blksize
        if (
            number < 1
            or number > (self._count or _MOST)
            or (self._count is not None and last != (number == self._count))
        ):
            raise WireError(f"DATA {number} is no block of this file")
        self._heardAt, self._tries = now, 0
        if self._have[number]:
            return None, []
        self._have[number] = 1
        self.blocks += 1
        if last:
            self._count = number
        self._first = self._have.find(0, self._first)
        self.complete = self._count is not None and self.blocks == self._count
        self._wait.heard(now)
        said = []
        if self.master and not self.complete:
            self._wait.ask(now)
            said = [self._ack()]
        return OffsetBlock((number - 1) * terms.blksize, block.payload), said

    def _ack(self) -> bytes:
        """All before the first one that is lacking."""
        return buildAck(self._first - 1)

    def _pollMaster(self, now: float) -> list[bytes]:
        """The request, or the last ACK, again; a master that gives up says so."""
        if self._wait.over(now):
            self.outcome = SILENT
        elif self._wait.due(now):
            self._wait.again(now)
            self.repeats += 1
            return [self._ack() if self.terms is not None else self._opening]
        return []

    def _pollListener(self, now: float) -> list[bytes]:
        """Nothing was heard for long: the request again."""
        if now < self._heardAt + LISTENER_SILENCE:
            return []
        self._heardAt = now
        self._tries += 1
        if self._tries > LISTENER_TRIES:
            self.outcome = SILENT
            return []
        self.repeats += 1
        return [self._opening]
