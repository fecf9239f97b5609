"""
After any sequence of reloads a server is as one that was freshly started with the last file that was accepted.

Two servers on networks of their own: one that was reloaded, through files that are drawn at random, with transfers and
uploads under way; and one that knows nothing but the last file.  When the transfers from before have ended, both are
asked the same, and everything is compared that can be seen from outside, and what they hold inside.

What may differ, and is left out here:

 - what was learned of clients and counted (metrics, hits of profiles, what machines have said, drops) outlives a
   reload: docs/machines.md, docs/metrics.md, docs/decisions/profiles.md.
 - a directory or a template whose options are the same is kept, also if it is no longer there
   (docs/decisions/slow-disks.md), and so are what it knows of its files, and the groups of a transport whose options
   are the same (docs/supervision.md).
 - a file that needs a port which is to make room, or is another plugin's, may be refused that a start would take.
"""

from __future__ import annotations

import gc
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import repeat
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from castd.errors import ConfigError, Unavailable
from castd.packets import slam
from castd.service.explain import DryRequest
from castd.service.service import Server, compose, read
from castd.testing import Host, Network, RecordingClient
from castd.testing.ports import VirtualPort
from castd.upgrade.predecessor import Predecessor
from castd.upgrade.successor import Successor
from tests.support.clients.tftp import rrq, wrq
from tests.support.descriptors import Descriptors
from tests.support.log import observed
from tests.support.pxe import ALL, NOWHERE, discover
from tests.support.server import COLLECTED, START, TFTP, AdminEndpoints, Case, pageOf, statusOf
from tests.support.service_files import BOOT, CLIENTS, OTHER, TAKEN, furnish, serviceFiles
from tests.test_upgrade import Given, Line

FIRST, SECOND = "10.0.0.1", "10.1.0.1"
LISTS = slam.buildList([range(2)])
#: What clients send, and where to.
REQUESTS: tuple[tuple[bytes, tuple[str, int]], ...] = (
    (rrq("file"), (FIRST, 69)),
    (rrq("file", blksize=1024, tsize=0, windowsize=4), (FIRST, 69)),
    (rrq("FILE", "netascii"), (FIRST, 70)),
    (rrq("x-second", tsize=0), (SECOND, 69)),
    (rrq("images/deep/x"), (FIRST, 69)),
    (rrq("/tftpboot/y-file", blksize=500), (FIRST, 69)),
    (rrq("any.cfg"), (FIRST, 69)),
    (rrq("52-54-00-66-00-10.cfg"), (FIRST, 69)),
    (rrq("nothing"), (FIRST, 69)),
    (rrq("file", timeout=1, windowsize=16), ("10.0.0.255", 69)),
    (rrq("file", blksize=1000, multicast=""), (FIRST, 69)),
    (rrq("second", multicast="", tsize=0), (FIRST, 70)),
    (rrq("file", sbroadcast="255.255.255.0"), (FIRST, 69)),
    (wrq("up", tsize=1100), (FIRST, 69)),
    (wrq("more/up"), (FIRST, 69)),
    (wrq("up2", blksize=600), (SECOND, 70)),
    (rrq("file"), (FIRST, 1759)),
    (rrq("second"), (FIRST, 1759)),
    (rrq("file"), (FIRST, 1760)),
    (LISTS, (FIRST, 10000)),
    (LISTS, (FIRST, 10001)),
    (LISTS, (SECOND, 10000)),
    (discover(), ALL),
    (discover(options={53: b"\3"}, ciaddr=IPv4Address(CLIENTS[0])), (FIRST, 4011)),
)
#: How long everything takes to come to an end, and to be forgotten: a machine that hears no group, a file that is
#: fetched again and again.  Seconds.
LONG = 1000.0


@pytest.fixture(autouse=True)
def inMemory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admin ports need no reactor, and templates no process."""
    monkeypatch.setattr(Reloaded, "endpoints", AdminEndpoints(monkeypatch), raising=False)

    class Renderers:
        def render(self, source: object, job: Any, *_: object) -> Deferred[Any]:
            return succeed({"text": f"{job['values']['name']} {job['values']['mac']}", "fault": None, "files": []})

    monkeypatch.setattr("castd.templates.source._renderers", lambda _: Renderers())


class Machine(RecordingClient):
    """
    A client that answers so often, and then no more.

    @ivar left: how many more answers it gives.
    """

    def __init__(self, host: Host, request: bytes, to: tuple[str, int], answers: int) -> None:
        super().__init__(host)
        self.port.setBroadcastAllowed(True)
        self.request, self.to, self.left = request, to, answers
        self.ask()

    def ask(self) -> None:
        """Send the request, for the first time or again."""
        if self.to == ALL:
            self.host.network.carry(self.request, NOWHERE, ALL, self.port)
        else:
            self.send(self.request, self.to)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        super().datagramReceived(datagram, addr)
        answer = self.answer(datagram) if self.left else b""
        if answer:
            self.left -= 1
            self.send(answer, addr)

    def answer(self, datagram: bytes) -> bytes:
        if self.request == LISTS:
            return LISTS if self.left > 1 else b"\0"
        opcode, write = datagram[1], self.request[1] == 2
        if opcode == 6:
            return b"\0\3\0\1" + bytes(512) if write else b"\0\4\0\0"
        if opcode == 4 and write:
            number = int.from_bytes(datagram[2:4]) + 1
            return b"" if number > 3 else b"\0\3" + number.to_bytes(2) + bytes(512 if number < 3 else 76)
        return b"\0\4" + datagram[2:4] if opcode == 3 else b""


class Reloaded(Case):
    """
    A server that is reloaded, or the fresh one, with its clients.

    @ivar accepted: the file that is in force.
    @cvar endpoints: the admin ports of all.
    """

    endpoints: AdminEndpoints

    def __init__(self, folder: Path, text: str) -> None:
        network = Network(latency=0.0002)
        network.host(f"{FIRST}/24", f"{SECOND}/24")
        # Of another process, whose sockets nobody inherits.
        RecordingClient(network.host(FIRST).successor(), TAKEN)
        super().__init__(folder, network, text)
        self.accepted, self.machines = text, list[Machine]()

    def ask(self, request: bytes, to: tuple[str, int], host: str, answers: int) -> None:
        self.machines.append(Machine(self.network.host(f"{host}/24"), request, to, answers))

    def reload(self, text: str) -> Any:
        faults = super().reload(text)
        self.accepted = self.accepted if faults else text
        return faults

    def upgrade(self, text: str) -> bool:
        """Have a process that reads this file take over.  -> whether it has; the other one ends its transfers."""
        old, host, line, told = self.server, self.host.successor(), Line(self.network), list[Any]()
        given: Any = Given()
        given.adminAddresses = old.adminAddresses()
        self.write(text)
        new = compose(read(self.folder / "x.yaml", COLLECTED), COLLECTED, host, host, random.Random(0))
        child = SimpleNamespace(pid=4321, kill=lambda: None, exited=None)

        def spawn(end: Any, exited: Any) -> Any:
            child.exited = exited
            new.handover.predecessor = Predecessor(new, given, lambda: None, line, lambda _: True)
            new.handover.predecessor.setServiceParent(new)
            return child

        def leave() -> None:
            old.stopService()
            line.ends[0].close()
            # Broadcasts are for the process that is left.
            self.network._hosts.update(dict.fromkeys(host.addresses, host))

        old.handover.makeSuccessor = lambda: Successor(old, self.host.boundSockets, spawn, leave, line)
        old.handover.upgrade().addCallback(told.append)
        old.handover.makeSuccessor = None
        if told:
            return False
        opened = self.endpoints.open.setdefault(self.network, set())
        before = set(opened)
        try:
            new.privilegedStartService()
        except Unavailable:
            # A process that ends closes what it has opened.
            opened &= before
            child.exited("ended with status 69")
            return False
        new.startService()
        self.network.run(lambda: told, limit=60)
        assert told == [()]
        self.server, self.host, self.accepted = new, host, text
        return True

    def do(self, step: tuple[Any, ...]) -> None:
        """Take one step between two reloads."""
        match step:
            case ("ask", request, host, answers):
                self.ask(*REQUESTS[request], CLIENTS[host], answers)
            case ("again", number) if self.machines:
                self.machines[number % len(self.machines)].ask()
            case ("change", body):
                (self.folder / "boot" / "file").write_bytes((BOOT, OTHER, b"")[body])
            case ("pass", seconds):
                self.network.advance(seconds)

    # What is compared.

    def answers(self) -> list[tuple[Any, ...]]:
        """Return what is sent for each request, each from a new machine; without the numbers that are drawn."""
        found, network = list[tuple[Any, ...]](), self.network
        assert network.capture is not None
        for number, (request, to) in enumerate(REQUESTS):
            for path in [*(self.folder / "drop").rglob("up*")]:
                path.unlink()
            # Numbers of groups and pauses are drawn.
            self.server.site.random.seed(number)
            seen = len(network.capture)
            host = f"10.0.0.{200 + number}"
            machine = Machine(network.host(f"{host}/24"), request, to, 0)
            network.advance(0.25)
            for each in network.capture[seen:]:
                # What is repeated for those before comes at instants that are drawn.
                earlier = each.destination[0].startswith("10.0.0.2") and each.destination[0] not in (host, "10.0.0.255")
                if each.source[0] in (FIRST, SECOND) and not earlier:
                    source = each.source[1] if each.source[1] < 40000 else "TID"
                    target = "client" if each.destination[:2] == machine.address[:2] else each.destination
                    found.append((number, each.source[0], source, target, each.datagram))
        return found

    def stop(self) -> None:
        """Stop the server, and check that it leaves nothing behind."""
        self.server.stopService()
        # The last transfers may take C{limits.drain}, and a summary of the log a minute more.
        self.network.advance(120)
        assert self.network.getDelayedCalls() == []
        assert self.ports() == [TAKEN]

    def rest(self) -> None:
        """Let all come to an end; nobody says anything."""
        for each in self.machines:
            each.left = 0
        self.network.advance(LONG)

    def picture(self) -> dict[str, Any]:
        """Return what the server is like, when it serves nobody."""
        server, site, host = self.server, self.server.site, self.host
        status = statusOf(server)
        for key in ("pid", "seconds", "inForceSeconds", "log", "history", "services"):
            del status[key]
        status["held"] |= {"descriptors": 0}
        status["recorder"] = status["recorder"]["directory"], status["recorder"]["rings"]
        admission, cache = site.admission, site.blockCache
        return {
            "status": status,
            "services": sorted(status_ for status_, _ in ((e.name, s) for e, s in server.portServices)),
            "ports": sorted(
                (each.address, each.places, each.shared, each.paused, each.admits)
                for each in host.openPorts()
                if each.address[1] != TAKEN and each.address[1] < 30000
            ),
            "request ports": dict(site.requestPorts),
            "addresses": [
                (each.address, each.required, each.remedy, each.port is None, [entry.name for entry in each.entries])
                for each in server.addresses
            ],
            "services of Twisted": len([each for each in server if not isinstance(each, Predecessor)]),
            "timers": sorted(str(call.func) for call in self.network.getDelayedCalls()),
            "alarms": len(site.timers),
            "limits": (site.limits, admission._limits, cache.limit, None if site.pacer is None else site.pacer.rate),
            "admitted": (admission._held, len(admission._entered), len(admission._unheard), admission.looking),
            "memory": cache.octets <= max(cache.limit, 1 << 19),
            "groups": (site.groupPool._allocated, [each for each in site.groupPool._reserved.values() if each.casts]),
            "sources": [getattr(each, "options", None) for each in site.content.sources],
            "uploads": {
                mode: [(each.options, each.uploads.byKey) for each in chain.directories]
                for mode, chain in site.sinks.items()
            },
            "places": site.sinkPlaces,
            "profiles": [] if site.profiles is None else [(p.options, p.place) for p in site.profiles.profiles],
            "machines": site.machines._options,
            "observers": len(site.observers),
            "debug": site.showsRequests,
            "admin": server.admin.addresses(),
            "warnings": list(server.warnings()),
            "presences": sorted(server._presence),
        }

    def explained(self) -> list[Any]:
        """Return what castd explain says of some requests."""
        asked = [
            DryRequest(host, name, write=write) for host in CLIENTS for name, write in (("file", False), ("up", True))
        ]
        return [self.network.result(self.server.explain(each)) for each in asked]

    def series(self) -> set[str]:
        """Return the metrics with their labels; counters of what the file does not name any more go on."""
        counters = self.server.admin._counters
        if counters is None or "metrics" not in self.server.admin.addresses():
            return set()
        lines = pageOf(counters).decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if line.startswith(("castd_casts", "castd_receivers"))}


#: Classes of what a service file becomes, and of transfers.  All others are caches, or hold what is learned of clients.
HELD = re.compile(
    r"castd\.(config\.(config\.(Config|Entry)|yaml\.Tree)|service\.(address|admin|build|logs|service)\.\w+"
    r"|server\.(listener|port_dialect|sessions|service_port|site|cast_protocol|upload_protocol|recorded)\.\w+"
    r"|dialects\.\w+\.Dialect|proxydhcp\.service\.(ProxyDhcp|Memory)|templates\.source\.TemplateSource"
    r"|files\.(access\.Rules|chains\.\w+|content\.Directory|uploads\.\w+|file_upload\.\w+|root\.Root)"
    r"|profiles\.table\.Profiles|pacing\.Pacer|observe\.history\.History|upgrade\.(handover|successor)\.\w+)"
)
_FOLLOWED = ("castd", "builtins", "functools", "collections")
_PASSED = (type, ModuleType, Network, Host, VirtualPort, RecordingClient, Logger, BuiltinFunctionType)


def census(server: Server) -> Counter[str]:
    """
    Return how many objects of each of these classes are held by a server; but for options, of which what is kept has
    equal ones of its own.
    """
    found, seen, ahead = Counter[str](), set[int](), list[Any]([server])
    while ahead:
        each = ahead.pop()
        module = type(each).__module__
        if (
            id(each) in seen
            or isinstance(each, _PASSED)
            or not module.startswith(("castd", "builtins", "functools", "collections"))
        ):
            continue
        seen.add(id(each))
        if module.startswith("castd") and not isinstance(each, BaseModel):
            found[f"{module}.{type(each).__qualname__}"] += 1
        if isinstance(each, FunctionType):
            ahead += [each.__closure__, each.__defaults__, each.__kwdefaults__]
        else:
            ahead += gc.get_referents(each)
    return Counter({name: many for name, many in found.items() if HELD.fullmatch(name)})


def freshFaults(folder: Path, text: str) -> tuple[str, ...]:
    """Return the faults with which a server does not start; C{()}: it does."""
    try:
        Reloaded(folder, text).stop()
    except ConfigError as error:
        return error.faults
    return ()


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.integers(0, len(REQUESTS) - 1),
            st.integers(0, len(CLIENTS) - 1),
            st.sampled_from([0, 1, 2, 50]),
        ),
        st.tuples(st.just("again"), st.integers(0, 5)),
        st.tuples(st.just("change"), st.integers(0, 2)),
        st.tuples(st.just("pass"), st.sampled_from([0.0005, 0.01, 0.3, 1.5, 36.0])),
    ),
    max_size=5,
)
#: Those of the faults of a refused file that a start does not have, or words otherwise: what is under way at a port, or
#: serves there; what the process before this one still has; an admin port that may be castd's own.
NOW = ("is to make room", "another kind of plugin", "is taken: another program", "if it is castd's own port")


def same(reloaded: Reloaded, folder: Path) -> None:
    """Check that a server that was reloaded is as a fresh one."""
    reloaded.rest()
    fresh = Reloaded(folder, reloaded.accepted)
    fresh.rest()
    # Both hear the events of both.
    reloaded.network.advance(5)
    fresh.network.advance(5)
    assert reloaded.picture() == fresh.picture()
    assert reloaded.explained() == fresh.explained()
    assert reloaded.series() == fresh.series()
    gc.collect()
    assert census(reloaded.server) == census(fresh.server)
    assert reloaded.answers() == fresh.answers()
    reloaded.stop()
    fresh.stop()


#: The steps before each reload, and after the last.
Between: TypeAlias = list[list[tuple[Any, ...]]]


def run(files: list[str], between: Between, upgrades: Iterable[bool] = repeat(False)) -> None:
    """
    Reload a server through these files, and compare it with a fresh one.

    @param between: the steps before each of them but the first, and after the last.
    @param upgrades: whether a new process takes over with that file, in the place of a reload.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        furnish(folder)
        events = list[dict[str, Any]]()
        with observed(events.append):
            start = files[0] if not freshFaults(folder, files[0]) else START + TFTP
            reloaded = Reloaded(folder, start)
            for text, before, upgrade in zip(files[1:], between, upgrades, strict=False):
                for step in before:
                    reloaded.do(step)
                if upgrade and not freshFaults(folder, text):
                    note(f"upgrade: {reloaded.upgrade(text)}\n{text}")
                    continue
                faults = reloaded.reload(text)
                note(f"{faults}\n{text}")
                if faults and not any(now in fault for now in NOW for fault in faults):
                    assert faults == freshFaults(folder, text)
            for step in between[-1]:
                reloaded.do(step)
            reloaded.write(reloaded.accepted)
            same(reloaded, folder)
        assert [each for each in events if "log_failure" in each or each.get("event") == "fault"] == []


#: An example takes a second: to look for a smaller one would take minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
FEW = settings(max_examples=4, phases=PHASES, derandomize=True)
MANY = settings(max_examples=30, phases=PHASES)

files = st.lists(serviceFiles(), min_size=2, max_size=6)
between = st.lists(steps, min_size=6, max_size=6)
upgrades = st.lists(st.booleans(), min_size=5, max_size=5)


@FEW
@given(files, between)
def test_asFresh(files: list[str], between: Between) -> None:
    """A server that was reloaded is as one that was started with the last file that it has accepted."""
    run(files, between)


@FEW
@given(files, between, upgrades)
def test_asFreshAfterUpgrades(files: list[str], between: Between, upgrades: list[bool]) -> None:
    """So is one that has taken over from another process, once that has ended, whatever was reloaded meanwhile."""
    run(files, between, upgrades)


@pytest.mark.slow
@MANY
@given(files, between)
def test_asFreshManyTimes(files: list[str], between: Between) -> None:
    """The same, for who has time."""
    run(files, between)


@pytest.mark.slow
@MANY
@given(files, between, upgrades)
def test_asFreshAfterManyUpgrades(files: list[str], between: Between, upgrades: list[bool]) -> None:
    """The same, for who has time."""
    run(files, between, upgrades)


#: All that a service file can name which has descriptors, and a file without all of that.
EVERYTHING = """
castd: 1
machines: {neighbours: false}
content:
- directory: {path: boot}
- directory: {path: images, under: images, ignore-case: true}
- template: {file: t.j2, names: [any.cfg]}
uploads: [{directory: {path: drop, keep-free: 0}}, {directory: {path: drop/more, under: more, keep-free: 0}}]
access: [{allow: any}]
history: {path: kept}
logging: {json: events}
recorder: {directory: captures}
transports:
  proxydhcp: {interface: 10.0.0.1, rules: [{arch: efi-x64, boot: file, answer: direct}]}
  groups: {use: multicast, port: 69, clients: any}
  plain: {use: tftp, port: 69, broadcast: true}
  other: {use: tftp, port: 70, single-port: true}
  slam: {file: file}
  mtftp: {files: {file: "239.255.1.9:3001"}, clients: any}
"""
LITTLE = """
castd: 1
content: [{directory: {path: other}}]
transports: {plain: {use: tftp, port: 69}}
"""


def test_nothingIsKeptOpen(tmp_path: Path) -> None:
    """
    What a reload takes out of the service file is closed when the last transfer with it has ended, without the garbage
    collector: that comes seldom, and never to what was there at the start (C{gc.freeze}).  Else a disk stays busy.
    """
    furnish(tmp_path)
    before = Descriptors()
    case = Reloaded(tmp_path, EVERYTHING)
    gc.collect()
    gc.disable()
    try:
        for number, (request, to) in enumerate(REQUESTS * 2):
            case.ask(request, to, f"10.0.0.{100 + number}", (0, 1, 2, 50)[number % 4])
            case.network.advance(0.001)
        assert case.reload(LITTLE) == ()
        case.rest()
        assert before.left() == [str(tmp_path / "other")]
    finally:
        gc.enable()
