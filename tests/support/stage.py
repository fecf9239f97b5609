"""
A TFTP server on a virtual network, for tests: the real listener and dialect, files in memory, events written down.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from castd.dialects.tftp import Dialect, Options
from castd.packets.tftp import Ack, Data, Error, Oack, TftpRequest, buildAck, buildData, buildRequest, parse
from castd.request import Peer
from castd.server.listener import Listener
from castd.testing import Mailbox, Network, memorySite, pattern
from tests.support.log import observed

SERVER = ("10.0.0.1", 69)
#: The file that most tests ask for.
F = pattern(1300)


def rrq(name: str = "f", mode: str = "octet", **options: object) -> bytes:
    """A read request; options in the order given."""
    return buildRequest(TftpRequest(False, name, mode, tuple((key, str(value)) for key, value in options.items())))


def wrq(name: str = "up", mode: str = "octet", **options: object) -> bytes:
    """A write request."""
    return buildRequest(TftpRequest(True, name, mode, tuple((key, str(value)) for key, value in options.items())))


class Stage:
    """
    One listener at port 69 of 10.0.0.1, and as many clients as a test wants.

    The site is one in memory, or what C{made} makes of the network.

    @ivar events: every structured event that was logged since, as the emitter wrote it.
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
        self.network = network or Network(seed=1, latency=0.0002)
        self.network.host("10.0.0.1", "10.1.0.1")
        self.site = (
            made(self.network) if made else memorySite(self.network, {"f": F} if files is None else files, **site)
        )
        settings = Options(**{"port": 69, "blksize": 1468, **(options or {})})
        self.listener = Listener(self.site, "tftp", settings, Dialect(settings))
        self.port = self.site.ports.listen(69, self.listener)
        self.events: list[dict[str, Any]] = []

    def client(self, port: int = 2000, host: str = "10.0.0.9") -> Mailbox:
        """A machine, or another port of it."""
        return Mailbox(self.network.host(host), port)

    def ask(self, request: bytes, client: Mailbox | None = None, seconds: float = 1.0) -> tuple[Mailbox, Any, Peer]:
        """Send a request from a client (a new one if none is given).  -> it, the first answer read, and who gave it."""
        client = client or self.client()
        client.send(request, SERVER)
        letter = client.expect(seconds)
        return client, parse(letter.datagram), letter.source

    def quiet(self, client: Mailbox, seconds: float = 0.015) -> None:
        """Nothing comes for so long."""
        assert client.inbox == []
        self.network.advance(seconds)
        assert client.inbox == []

    def over(self) -> None:
        """No transfer is left, no port, no open file; and no fault was logged."""
        self.network.advance(0.01)
        assert list(self.listener.casts()) == []
        assert self.site.ports.openPorts() == (self.port,)
        assert self.site.admission.casts == 0
        assert all(getattr(content, "closes", 1) == 1 for content in self.site.contents)
        self.sane()

    def sane(self) -> None:
        """Nothing went wrong inside the server."""
        assert [event for event in self.events if "log_failure" in event or event.get("event") == "fault"] == []

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of this kind."""
        return [event for event in self.events if event.get("event") == kind]


@contextmanager
def staged(*args: Any, **kw: Any) -> Iterator[Stage]:
    """A stage whose events are written down while it stands."""
    stage = Stage(*args, **kw)
    with observed(stage.events.append):
        yield stage
        stage.sane()


def say(client: Mailbox, number: int, tid: Peer) -> None:
    """Send an ACK."""
    client.send(buildAck(number), tid)


def hear(client: Mailbox, seconds: float = 1.0) -> Any:
    """The next packet that comes, read."""
    return parse(client.expect(seconds).datagram)


def ackedTo(client: Mailbox, number: int, tid: Peer) -> Any:
    """Send an ACK, and read the next packet."""
    say(client, number, tid)
    return hear(client)


def data(number: int, content: bytes = F, blksize: int = 512) -> Data:
    """Block C{number}, counted from 1, of this content."""
    return Data(number & 0xFFFF, content[(number - 1) * blksize : number * blksize])


def download(stage: Stage, client: Mailbox, request: bytes) -> tuple[bytes, list[int]]:
    """Read a file as a faultless client does.  -> its octets, and the block numbers as they stood on the wire."""
    first = stage.ask(request, client)
    packet, tid = first[1], first[2]
    granted = {name.lower(): int(value) for name, value in packet.options} if isinstance(packet, Oack) else {}
    blksize, window = granted.get("blksize", 512), granted.get("windowsize", 1)
    numbers: list[int] = []
    octets: list[bytes] = []
    if isinstance(packet, Oack):
        packet = ackedTo(client, 0, tid)
    while True:
        assert isinstance(packet, Data), packet
        numbers.append(packet.number)
        octets.append(packet.payload)
        last = len(packet.payload) < blksize
        if last or len(numbers) % window == 0:
            say(client, packet.number, tid)
        if last:
            return b"".join(octets), numbers
        packet = hear(client)


def upload(client: Mailbox, tid: Peer, content: bytes, blksize: int = 512, window: int = 1) -> list[Any]:
    """Write a file as a faultless client does, once the request is answered.  -> the answers."""
    answers = []
    count = len(content) // blksize + 1
    for number in range(1, count + 1):
        payload = content[(number - 1) * blksize : number * blksize]
        client.send(buildData(number & 0xFFFF, payload), tid)
        if number % window == 0 or number == count:
            answers.append(hear(client))
    return answers


def isError(packet: object, code: int) -> bool:
    """Is it an ERROR with this code?"""
    return isinstance(packet, Error) and packet.code == code


__all__ = [
    "SERVER",
    "Ack",
    "Data",
    "Error",
    "F",
    "Oack",
    "Stage",
    "ackedTo",
    "data",
    "download",
    "hear",
    "isError",
    "rrq",
    "say",
    "staged",
    "upload",
    "wrq",
]
