"""
Runs hunts: one server with every transport, honest clients of each, and forged datagrams in rounds, each round with a
server of its own.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import _lru_cache_wrapper
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol

from castd.client.client import fetch
from castd.client.transfer import ClientTransfer
from castd.client.urls import parseUrl
from castd.dialects import mtftp, multicast, sbroadcast, slam, tftp
from castd.errors import WireError
from castd.interfaces import ConfiguredTransport
from castd.observe.format import asText
from castd.observe.ratelimit import RateLimiter
from castd.pacing import REMEMBERED
from castd.packets import dhcp
from castd.packets.dhcp import DhcpPacket
from castd.proxydhcp.limits import MOST_MACHINES, MOST_REFUSALS
from castd.proxydhcp.options import Options
from castd.proxydhcp.service import MOST_KNOWN, ProxyDhcp
from castd.receive.group import SbroadcastDownload
from castd.receive.options import RequestedOptions
from castd.request import Peer
from castd.server.service_port import ServiceListener
from castd.server.site import MOST_BARRED
from castd.testing import MemorySink, Network, ReceivedFile, memorySite, pattern
from tests.support.log import observed
from tests.support.noise import answer, noise
from tests.support.stage import listener

SERVER = "10.0.0.1"
#: The request port of each transport.
PORTS = {
    "tftp": 69,
    "multicast": 69,
    "sbroadcast": 69,
    "single-port": 6969,
    "mtftp": 1759,
    "slam": 10000,
    "proxydhcp": 4011,
}
#: The transports that have a case in the quick tests.
QUICK = ("tftp",)
#: The name of a transport in events, where it differs.
TRANSPORTS = {"single-port": "tftp"}
LARGE = pattern(40_000)
FILES = {"f": pattern(1300), "large": LARGE, "empty": b"", "boot/x": pattern(5000)}


class Tally:
    """
    Counts of the datagrams that were sent to one address.

    @ivar largest: octets of the largest datagram.
    @ivar kinds: how many began with these two octets; C{log}: when which did.
    """

    __slots__ = ("datagrams", "kinds", "largest", "log", "octets")

    def __init__(self) -> None:
        self.datagrams = self.octets = self.largest = 0
        self.kinds: Counter[bytes] = Counter()
        self.log: list[tuple[float, bytes]] = []

    def note(self, datagram: bytes, now: float) -> None:
        self.datagrams += 1
        self.octets += len(datagram)
        self.kinds[datagram[:2]] += 1
        self.largest = max(self.largest, len(datagram))
        self.log.append((now, datagram[:2]))


class Wilds(Network):
    """
    A network on which every source address can be forged.

    @ivar tallies: counts of what the server has sent to the addresses of attackers, where no host is.
    @ivar grouped: the same for groups and broadcasts, by address.
    @ivar answered: (source, destination, datagram) of the server's last answers to attackers that listen.
    @ivar tape: (source, destination, datagram) of the datagrams of honest clients.
    """

    def __init__(self, seed: int, faults: float) -> None:
        super().__init__(seed, loss=faults, duplicate=faults, reorder=faults, latency=0.0002, capture=False)
        self.tallies: dict[str, Tally] = {}
        self.grouped: dict[str, Tally] = {}
        self.answered: deque[tuple[Peer, Peer, bytes]] = deque(maxlen=60)
        self.tape: deque[tuple[Peer, Peer, bytes]] = deque(maxlen=2000)
        self.strangers: set[str] = set()
        self.honest: set[str] = set()

    def carry(self, datagram: bytes, source: Peer, destination: Peer, sender: Any) -> None:
        host = destination[0]
        if source[0] == SERVER:
            if (tally := self.tallies.get(host)) is not None:
                tally.note(datagram, self.rightNow)
                return
            if host in self.strangers:
                self.answered.append((source, destination, datagram))
                return
            if host.startswith("239.") or host.endswith(".255"):
                self.grouped.setdefault(host, Tally()).note(datagram, self.rightNow)
                if host[:4] == "239." and not self.groups.get(destination):  # type: ignore[call-overload]
                    return
        elif source[0] in self.honest:
            self.tape.append((source, destination, datagram))
        super().carry(datagram, source, destination, sender)

    def forge(self, datagram: bytes, source: Peer, destination: Peer) -> None:
        """Send a datagram with any source; it is lost if no port listens at the destination."""
        receiver = self.bound.get(destination[:2])
        if receiver is not None:
            self._forward(receiver, datagram, source, receiver.locals[destination[0]])


class Everything:
    """What a proxydhcp sees of the service file: a tftp, and files that all may read."""

    transports = (ConfiguredTransport("tftp", "tftp", tftp.Options()),)

    def size(self, name: str) -> int | None:
        return len(FILES[name]) if name in FILES else None

    def isMissing(self, name: str, networks: object) -> bool:
        return name not in FILES

    def readable(self, name: str, networks: object) -> bool:
        return True


def proxy(site: Any, host: str = SERVER) -> list[ServiceListener]:
    """Return the ports of a proxydhcp that offers the large file to all machines."""
    rules = [{"arch": "efi-x86", "boot": "nothere"}, {"machines": "52:54:00:*", "boot": "large"}, {"boot": "f"}]
    service = ProxyDhcp("proxydhcp", Options.model_validate({"interface": host, "rules": rules}), site)
    for _ in service.configure(Everything()):
        pass
    return [ServiceListener("proxydhcp", service, at) for at in service.ports]


class Booting(DatagramProtocol):
    """
    A machine that asks at port 4011 what to boot, once a second, and fetches that.

    @ivar told: fires with the name of the file.
    """

    noisy = False

    def __init__(self, machine: Any, number: int) -> None:
        self.told: Deferred[str] = Deferred()
        self._machine = machine
        address = bytes([0x52, 0x54, 0, 1, number >> 8, number & 255])
        options = {53: b"\3", 60: b"PXEClient:Arch:00007:UNDI:003000", 93: b"\0\7"}
        asked = DhcpPacket(1, 1, 6, address[2:], address.ljust(16, b"\0"), options=options)
        self._request, self._port = dhcp.build(asked), machine.listenUDP(68, self)
        self._again()

    def _again(self) -> None:
        if not self.told.called:
            self._port.write(self._request, (SERVER, PORTS["proxydhcp"]))
            self._machine.callLater(1.0, self._again)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        with suppress(WireError):
            packet = dhcp.parse(datagram)
            if packet.op == 2 and datagram[28:44] == self._request[28:44] and not self.told.called:
                self._port.stopListening()
                self.told.callback(packet.file.decode())


class Bounded(ReceivedFile):
    """The sink of an honest client, which raises on octets beyond the end of the file."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: bytes) -> None:
        self.writeAt(len(self.data), data)

    def writeAt(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.room
        super().writeAt(offset, data)


class Honest:
    """
    One honest client, made of castd's halves, with the result of its transfer.

    @ivar result: the report, or a failure.
    """

    def __init__(self, ground: Ground, kind: str, host: str) -> None:
        self.kind, self.sink, self.result = kind, Bounded(len(LARGE)), None
        self.machine = ground.network.host(host)
        ground.network.honest.add(host)
        self.began = ground.network.seconds()
        self.fetched = self._begin(kind)
        self.fetched.addBoth(self._over)

    def _begin(self, kind: str) -> Deferred[Any]:
        if kind == "proxydhcp":
            # A machine whose boot fails begins anew, as firmware does.
            return self._boot().addErrback(lambda _: self._boot())
        if kind == "sbroadcast":
            half = SbroadcastDownload("large", "255.255.255.0", RequestedOptions(blksize=1464))
            return ClientTransfer(self.machine, half, (SERVER, PORTS[kind]), self.sink, None).start()
        scheme = {"multicast": "tftm", "single-port": "tftp"}.get(kind, kind)
        name = "" if kind == "slam" else "large"
        return fetch(self.machine, parseUrl(f"{scheme}://{SERVER}:{PORTS[kind]}/{name}"), self.sink)

    def _boot(self) -> Deferred[Any]:
        """Ask what to boot, and fetch it."""
        self.sink.data = bytearray()
        number = int(self.machine.addresses[0].rpartition(".")[2])
        told = Booting(self.machine, number).told
        return told.addCallback(lambda name: fetch(self.machine, parseUrl(f"tftp://{SERVER}/{name}"), self.sink))

    def _over(self, result: Any) -> None:
        self.result = result

    @property
    def right(self) -> bool:
        """Return whether it has the file, octet for octet."""
        return bool(self.sink.data == LARGE)


class Ground:
    """
    The server, and its events.

    @ivar faults: the failures that were logged; C{kinds}: how many events of each kind; C{lines}: the lines of the log;
        C{ends}: how transfers have ended, by transport.
    """

    def __init__(self, seed: int, faults: float = 0.02, **site: Any) -> None:
        self.seed, self.chance = seed, random.Random(seed)
        self.network = Wilds(seed, faults)
        self.network.host(f"{SERVER}/24")
        self.uploads = MemorySink({}, "overwrite", largest=50_000)
        given: dict[str, Any] = {"files": dict(FILES), "uploads": self.uploads, "seed": seed, "jitter": True, **site}
        self.site = memorySite(self.network, host=f"{SERVER}/24", **given)
        self.listeners = [
            listener(self.site, (sbroadcast, {"subnets": ["10.0.0.0/24"]}), (multicast, {}), (tftp, {})),
            listener(self.site, (tftp, {"singlePort": True, "port": 6969})),
            listener(self.site, (mtftp, {"port": 1759, "files": {"large": "239.255.1.1:3001"}})),
            listener(self.site, (slam, {"port": 10000, "file": "large", "rate": "2 MB/s"})),
        ]
        self.ports = [self.site.ports.listen(each.port, each) for each in self.listeners]
        self.services = proxy(self.site)
        self.ports += [self.site.ports.listen(each.port, each, each.interface) for each in self.services]
        self.faults: list[Any] = []
        self.kinds: Counter[str] = Counter()
        self.ends: dict[str, set[str]] = defaultdict(set)
        self.lines = 0
        self._log = RateLimiter(self._written)

    def event(self, event: dict[str, Any]) -> None:
        """Observe an event of the log."""
        if "log_failure" in event or event.get("event") == "fault":
            self.faults.append(event.get("log_failure") or event)
        self.kinds[event.get("event", "")] += 1
        if event.get("event") == "received":
            self.ends[event["transport"]].add(event["outcome"])
        if event.get("log_level") is None or event["log_level"].name != "debug":
            self._log(event)

    def _written(self, event: dict[str, Any]) -> None:
        self.lines += 1
        assert asText(event)

    # What must hold.

    def bounded(self) -> None:
        """Check that all that attackers can make grow is below its limit, and that no fault was logged."""
        site, where = self.site, f"seed {self.seed}"
        limits, admission = site.limits, site.admission
        assert not self.faults, (where, self.faults[0])
        assert admission.casts + admission.looking <= limits.casts, where
        assert sum(admission.receivers.values()) <= limits.receivers, where
        assert max(admission.receivers.values(), default=0) <= limits.perPeer, where
        assert site.blockCache.octets <= limits.memory, where
        assert len(site._barred) <= MOST_BARRED, where
        assert len(admission.known) <= REMEMBERED, where
        assert len(admission._unheard) <= admission.receivers.total(), where
        for limit in (
            admission._new,
            admission._again,
            admission._errorsPerPeer,
            admission._errors._networks,
            admission._mayDisplace._networks,
        ):
            assert len(limit._buckets) <= REMEMBERED, where
        # Only transfers that were admitted log without limit; all other lines come once a minute.
        memory: Any = self.services[0].service
        assert memory._memory.limits.remembered <= MOST_MACHINES, where
        assert len(memory._memory.missing) <= MOST_REFUSALS, where
        assert len(memory._files._known) <= MOST_KNOWN, where
        told = sum(self.kinds[kind] for kind in ("received", "opened", "closed", "moved", "rollover"))
        told += sum(self.kinds[kind] for kind in ("offered", "acknowledged", "fetching", "unanswered"))
        assert self.lines <= told + 2 * (2 * RateLimiter.MAX_FAULTS + 64), (where, self.lines, self.kinds)

    def over(self) -> None:
        """Check that no state is left once all clients are silent."""
        self.network.advance(3000)  # a timeout of 255 s may have been agreed on
        self.bounded()
        where = f"seed {self.seed}"
        assert [cast for each in self.listeners for cast in each.casts()] == [], where
        assert self.site.ports.openPorts() == tuple(self.ports), where
        assert (self.site.admission.casts, self.site.admission.looking) == (0, 0), where
        assert not self.site.admission.receivers, where
        assert not self.uploads.open, where
        assert all(getattr(content, "closes", 1) == 1 for content in self.site.contents), where
        assert not [entry.shared for each in self.listeners for entry in each._entries if entry.shared], where


@contextmanager
def standing(*args: Any, **kw: Any) -> Iterator[Ground]:
    """Return a ground whose events are observed while the context is entered."""
    ground = Ground(*args, **kw)
    with observed(ground.event):
        yield ground
    assert not ground.faults, (f"seed {ground.seed}", ground.faults[0])


DATAGRAMS = int(os.environ.get("CASTD_FUZZ", "4000"))
SEED = int(os.environ.get("CASTD_SEED", "1"))
#: Datagrams of one round; memory is compared between rounds.
ROUND = 10_000
#: Time passes after so many datagrams.
STEP = 16
PAUSES = (0.0005, 0.002, 0.02, 0.3, 2.0)
STRANGERS = [f"10.0.0.{20 + number}" for number in range(10)]


def emptied() -> None:
    """Check the bounds of castd's caches, and clear them."""
    gc.collect()
    for each in gc.get_objects():
        if isinstance(each, _lru_cache_wrapper) and each.__module__.startswith("castd"):
            assert each.cache_parameters()["maxsize"] is not None, each
            each.cache_clear()
    gc.collect()


def rounds(datagrams: int = DATAGRAMS) -> Iterator[tuple[int, int]]:
    """Return (seed, datagrams) of each round."""
    left, seed = datagrams, SEED
    while left > 0:
        yield seed, min(left, ROUND)
        left, seed = left - ROUND, seed + 1


class Hunt:
    """
    Attackers that receive the answers to them and send to their sources, beside honest clients of every transport.

    @ivar honest: one honest client of each transport, started anew when it has ended.
    """

    def __init__(self, ground: Ground, kind: str) -> None:
        self.ground, self.kind = ground, kind
        self.network, self.chance = ground.network, ground.chance
        self.network.strangers.update(STRANGERS)
        self.sources: list[Peer] = [(host, 2000 + port) for host in STRANGERS for port in range(4)]
        self.honest: list[Honest] = []
        self._hosts = 0

    def begin(self) -> None:
        """Start one honest client of each transport."""
        for kind in PORTS:
            self._hosts += 1
            self.honest.append(Honest(self.ground, kind, f"10.0.0.{100 + self._hosts % 100}"))

    def run(self, datagrams: int) -> None:
        """Send so many datagrams, some to the sources of answers, and let time pass at intervals."""
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
        """Stop the attackers, and wait until every honest client has its file."""
        where = f"{self.kind}, seed {self.ground.seed}"
        self.network.link(loss=0.0, duplicate=0.0, reorder=0.0)
        self.network.run(lambda: all(each.result is not None for each in self.honest), limit=600)
        wrong = [(each.kind, each.began, each.result) for each in self.honest if not each.right]
        assert not wrong, (where, wrong)
        self.ground.over()
