"""
Provides stages: a server on a network in memory, with as many clients as a test needs.

It is the real listener with its dialects, on a site of L{castd.testing}: files in memory, events written down.  Each
protocol has its own, which differs in what it serves and in how its clients are addressed::

    with TftpStage({"f": F}, options={"windowsize": 4}) as stage:
        client, packet, tid = stage.ask(rrq("f", windowsize=4))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from castd.dialects import mtftp, multicast, slam, tftp
from castd.packets.tftp import parse
from castd.request import Peer
from castd.server.listener import Listener
from castd.testing import MemorySite, Network, RecordingClient, SentDatagram, memorySite, pattern
from castd.testing.recording import ReceivedDatagram
from tests.support.clients.mtftp import LINUX
from tests.support.clients.multicast import Member, number
from tests.support.clients.slam import Player
from tests.support.clients.slam_client import Client, Etherboot, Ipxe
from tests.support.clients.tftp import F, rrq
from tests.support.log import observed

HOST = "10.0.0.1"
SERVER = (HOST, 69)
#: The file of the conformance cases of groups: blocks 1 to 6 of 8 octets, the last empty.
AFILE = pattern(40)
#: The options that most clients of these cases ask for.
ASKED = {"blksize": 8, "tsize": 0, "multicast": ""}

#: A module of castd.dialects, and its options by name.
Spoken = tuple[Any, dict[str, Any]]


def listener(site: Any, *spoken: Spoken) -> Listener:
    """Return a listener that speaks these dialects, in this order."""
    made: list[Listener] = []
    for dialect, given in spoken:
        options = dialect.Options(**given)
        made.append(Listener(site, dialect.__name__.rpartition(".")[2], options, dialect.Dialect(options)))
    for each in made[1:]:
        assert made[0].share(each)
    return made[0]


class Stage:
    """
    One server at one port.

    @ivar server: the address of the server.
    @ivar events: every structured event that was logged within C{with}, as the emitter wrote it.
    """

    def __init__(
        self, network: Network, site: Any, *spoken: Spoken, port: int | None = None, interface: str = ""
    ) -> None:
        """
        @param port: where it listens, if not where its first dialect's options say.
        @param interface: the one address that it listens at, if not at all of the machine.
        """
        self.network, self.site = network, site
        self.listener = listener(site, *spoken)
        self.server: Peer = (interface or HOST, self.listener.port if port is None else port)
        self.port = site.ports.listen(self.server[1], self.listener, interface)
        self.events: list[dict[str, Any]] = []
        self._seen = 0
        self._life = ExitStack()

    def __enter__(self) -> Self:
        self._life.enter_context(observed(self.events.append))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._life:
            if error is None:
                self.end()

    def end(self) -> None:
        """Check what must hold at the end of a test."""
        self.sane()

    def sane(self) -> None:
        """Check that the server has logged no fault."""
        assert [event for event in self.events if "log_failure" in event or event.get("event") == "fault"] == []

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of this kind."""
        return [event for event in self.events if event.get("event") == kind]

    def casts(self) -> list[Any]:
        """Return the casts that are under way."""
        return list(self.listener.casts())

    def sightings(self) -> list[SentDatagram]:
        """Return the datagrams on the network since the last call."""
        capture = self.network.capture or []
        new, self._seen = capture[self._seen :], len(capture)
        return new

    def sent(self) -> list[tuple[Peer, bytes]]:
        """Return (destination, datagram) of what the server's port has sent since this was last asked."""
        return [(each.destination, each.datagram) for each in self.sightings() if each.source == self.server]


class TftpStage(Stage):
    """
    TFTP at port 69 of 10.0.0.1.

    The site is one in memory, or what C{made} makes of the network.
    """

    def __init__(
        self,
        files: Any = None,
        *,
        options: Any = None,
        network: Network | None = None,
        made: Callable[[Network], Any] | None = None,
        **site: Any,
    ) -> None:
        network = network or Network(seed=1, latency=0.0002)
        network.host(HOST, "10.1.0.1")
        super().__init__(
            network,
            made(network) if made else memorySite(network, {"f": F} if files is None else files, **site),
            (tftp, {"port": 69, "blksize": 1468, **(options or {})}),
        )

    def client(self, port: int = 2000, host: str = "10.0.0.9") -> RecordingClient:
        """Return a client on this port of a machine."""
        return RecordingClient(self.network.host(host), port)

    def ask(
        self, request: bytes, client: RecordingClient | None = None, seconds: float = 1.0
    ) -> tuple[RecordingClient, Any, Peer]:
        """Send a request from a client (a new one if none is given).  -> it, the first answer read, and who gave it."""
        client = client or self.client()
        client.send(request, self.server)
        letter = client.expect(seconds)
        return client, parse(letter.datagram), letter.source

    def quiet(self, client: RecordingClient, seconds: float = 0.015) -> None:
        """Check that no datagram comes for so long."""
        assert client.inbox == []
        self.network.advance(seconds)
        assert client.inbox == []

    def over(self) -> None:
        """Check that no transfer, port or file is left open, and that no fault was logged."""
        self.network.advance(0.01)
        assert self.casts() == []
        assert self.site.ports.openPorts() == (self.port,)
        assert self.site.admission.casts == 0
        assert all(getattr(content, "closes", 1) == 1 for content in self.site.contents)
        self.sane()


class GroupStage(TftpStage):
    """A group dialect in front of the plain one, at the port of TFTP."""

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
        network = network or Network(seed=1, latency=0.0002)
        network.host(HOST, "10.1.0.1")
        Stage.__init__(
            self,
            network,
            memorySite(network, {"afile": AFILE} if files is None else files, **site),
            (kind, {"port": port, "gather": 0, **(options or {})}),
            (tftp, {"port": port}),
        )

    def join(self, number: int = 1, port: int = 2000, request: bytes = b"") -> Member:
        """Let client C{number} send its request, and take its OACK."""
        client, packet, tid = self.ask(request or rrq("afile", **ASKED), self.client(port, f"10.0.0.{10 + number}"))
        return Member(self, client, packet, tid)

    def heard(self, seconds: float = 0.01) -> list[ReceivedDatagram]:
        """Let time pass.  -> what went to groups since the last call, in order."""
        self.network.advance(seconds)
        return [
            ReceivedDatagram(each.datagram, each.destination, each.time)
            for each in self.sightings()
            if each.destination[0].startswith("239.") or each.destination[0].endswith(".255")
        ]

    def blocks(self, seconds: float = 0.01) -> list[int]:
        """Return the numbers of the blocks that went to groups since the last call."""
        return [number(letter.datagram) for letter in self.heard(seconds)]


class MtftpStage(Stage):
    """MTFTP at port 1759 and, if wanted, plain TFTP beside it."""

    def __init__(
        self,
        files: dict[str, bytes] | None = None,
        *,
        groups: dict[str, str] | None = None,
        network: Network | None = None,
        plain: bool = False,
        jitter: bool = False,
        limits: Any = None,
        **options: Any,
    ) -> None:
        network = network or Network(latency=0.0005)
        held = {"linux": LINUX} if files is None else files
        given = {"files": groups or {"linux": "239.255.1.1:3001"}, "gather": 0, "gatherLimit": 0, **options}
        site = memorySite(network, host=f"{HOST}/16", files=held, jitter=jitter, limits=limits)
        super().__init__(network, site, (mtftp, given), port=1759)
        self.options = mtftp.Options(**given)
        self.plain = Stage(network, site, (tftp, {})) if plain else None

    def client(self, number: int = 2, port: int = 2000) -> RecordingClient:
        """Return a client on the machine of this number."""
        return RecordingClient(self.network.host(f"10.0.{number >> 8}.{number & 255}/16"), port)

    def say(self, client: RecordingClient, *datagrams: bytes, seconds: float = 0.005) -> list[tuple[Peer, bytes]]:
        """Let a client say this.  -> what the server sends within C{seconds}."""
        self.sent()
        for datagram in datagrams:
            client.send(datagram, self.server)
        self.network.advance(seconds)
        return self.sent()

    def wait(self, seconds: float) -> list[tuple[float, Peer, bytes]]:
        """Return what the server sends within C{seconds} by itself, with the seconds from now."""
        self.sightings()
        began = self.network.seconds()
        self.network.advance(seconds)
        return [
            (round(each.time - began, 3), each.destination, each.datagram)
            for each in self.sightings()
            if each.source == self.server
        ]

    def end(self) -> None:
        """Check that no fault was logged, and that all that was opened is closed."""
        self.listener.stop()
        self.network.advance(0)  # the members of a large group are dismissed in slices
        assert self.told("fault") == []
        if self.plain is None:
            assert all(content.closes == 1 for content in self.site.contents), "each content is closed once"


class SlamStage(Stage):
    """
    SLAM, and its players.

    @ivar files: what it serves; C{image} is at the port.
    """

    def __init__(
        self,
        data: bytes | None,
        *,
        latency: float = 0.0005,
        loss: float = 0.0,
        seed: int = 0,
        capture: bool = True,
        **options: Any,
    ) -> None:
        network = Network(seed=seed, latency=latency, loss=loss, capture=capture)
        site: MemorySite = memorySite(network, {} if data is None else {"image": data}, host=HOST)
        super().__init__(network, site, (slam, {"file": "image", **options}), interface=HOST)
        self.files = site.files
        self.group = tuple(slam.Options(file="image", **options).group)
        self.host = network.host(HOST)
        self.players: list[Player] = []

    def play(self, client: Etherboot | Ipxe, host: str | None = None) -> Player:
        """Let a client begin now."""
        number = len(self.players) + 2
        machine = self.network.host(host or f"10.0.{number >> 8}.{number & 255}/16")
        player = Player(client, machine, self.server, self.group)
        self.players.append(player)
        return player

    def playing(self) -> list[Client]:
        return [player.client for player in self.players]

    def played(self) -> bool:
        """Return whether every player has the file, or has given up."""
        return all(player.client.over for player in self.players)
