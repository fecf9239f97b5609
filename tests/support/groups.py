"""
Group transports of the TFTP family on a virtual network, for tests: the group dialect before a plain one at one port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from castd.dialects import multicast, tftp
from castd.packets.tftp import buildAck, buildError, parse
from castd.request import Peer
from castd.server.listener import Listener
from castd.testing import Mailbox, Network, memorySite, pattern
from castd.testing.mailbox import Letter
from tests.support.log import observed
from tests.support.stage import Oack, Stage, rrq

SERVER = ("10.0.0.1", 69)
#: The file of the conformance cases: blocks 1 to 6 of 8 octets, the last empty.
AFILE = pattern(40)
#: What most clients of the cases ask.
ASKED = {"blksize": 8, "tsize": 0, "multicast": ""}


class GroupStage(Stage):
    """
    A stage whose listener has a group dialect in front of the plain one.

    @ivar group: the transport in front.
    """

    def __init__(
        self,
        files: Any = None,
        *,
        options: Any = None,
        kind: Any = multicast,
        network: Network | None = None,
        port: int = 69,
        **site: Any,
    ) -> None:
        self.network = network or Network(seed=1, latency=0.0002)
        self.network.host("10.0.0.1", "10.1.0.1")
        self.site = memorySite(self.network, {"afile": AFILE} if files is None else files, **site)
        settings = kind.Options(**{"port": port, "gather": 0, **(options or {})})
        plain = tftp.Options(port=port)
        name = kind.__name__.rpartition(".")[2]
        self.listener = Listener(self.site, name, settings, kind.Dialect(settings))
        assert self.listener.share(Listener(self.site, "tftp", plain, tftp.Dialect(plain)))
        self.port = self.site.ports.listen(port, self.listener)
        self.server: Peer = ("10.0.0.1", port)
        self.events: list[dict[str, Any]] = []
        self._seen = 0

    def ask(self, request: bytes, client: Mailbox | None = None, seconds: float = 1.0) -> tuple[Mailbox, Any, Peer]:
        """As L{Stage.ask}, at this stage's port."""
        client = client or self.client()
        client.send(request, self.server)
        letter = client.expect(seconds)
        return client, parse(letter.datagram), letter.source

    def join(self, number: int = 1, port: int = 2000, request: bytes = b"") -> Member:
        """Client C{number} asks; its OACK is taken."""
        client, packet, tid = self.ask(request or rrq("afile", **ASKED), self.client(port, f"10.0.0.{10 + number}"))
        return Member(self, client, packet, tid)

    def heard(self, seconds: float = 0.01) -> list[Letter]:
        """Let time pass.  -> what went to groups since the last call, in order."""
        self.network.advance(seconds)
        assert self.network.capture is not None
        new, self._seen = self.network.capture[self._seen :], len(self.network.capture)
        groups = [
            each for each in new if each.destination[0].startswith("239.") or each.destination[0].endswith(".255")
        ]
        return [Letter(each.datagram, each.destination, each.time) for each in groups]

    def blocks(self, seconds: float = 0.01) -> list[int]:
        """-> the numbers of the blocks that went to groups since the last call."""
        return [number(letter.datagram) for letter in self.heard(seconds)]


def number(datagram: bytes) -> int:
    """-> the block number of DATA or BDATA."""
    assert datagram[:2] in (b"\0\3", b"\0\7"), datagram
    return int.from_bytes(datagram[2:4], "big")


class Member:
    """
    One client of a case, driven by hand.

    @ivar oack: the first answer; C{tid} is who gave it.
    """

    def __init__(self, stage: GroupStage, client: Mailbox, oack: Any, tid: Peer) -> None:
        self.stage, self.client, self.oack, self.tid = stage, client, oack, tid

    @property
    def value(self) -> str:
        """Of the group option in the first OACK."""
        return value(self.oack)

    def ack(self, *numbers: int) -> list[int]:
        """Acknowledge, one after the other.  -> the blocks that went to the group."""
        said = []
        for each in numbers:
            self.client.send(buildAck(each), self.tid)
            said += self.stage.blocks()
        return said

    def error(self) -> None:
        self.client.send(buildError(0, "stop"), self.tid)

    def told(self) -> list[Any]:
        """What came by unicast since the last call, read."""
        return [parse(letter.datagram) for letter in self.client.take()]

    def roles(self) -> list[str]:
        """The last fields of the OACKs that came, in order; nothing else may have come."""
        return [value(packet).rpartition(",")[2] for packet in self.told()]


def value(packet: Any) -> str:
    """The group option of an OACK."""
    assert isinstance(packet, Oack), packet
    (found,) = (text for name, text in packet.options if name.lower() in ("multicast", "sbroadcast"))
    return found


@contextmanager
def grouped(*args: Any, make: Callable[..., GroupStage] = GroupStage, **kw: Any) -> Iterator[Any]:
    """A stage whose events are written down while it stands."""
    stage = make(*args, **kw)
    with observed(stage.events.append):
        yield stage
        stage.sane()
