"""Measures what strangers can do to a castd and its clients: C{python benchmarks/attacks.py [--docs]}, as root.

All traffic is in network namespaces that this program makes: servers, an attacker that forges addresses, and an honest
client, at one switch. It ends by itself within seven minutes. Two tables come of it: what a forged datagram draws from
each transport, and a flood costs an honest client; and the time of an honest client beside each of some attacks.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import yaml

TREE = Path(__file__).parents[1]
sys.path.insert(0, str(TREE))

from benchmarks.facts import fillIn, today  # noqa: E402
from castd.packets.slam import FIRST_LIST, buildList  # noqa: E402
from castd.packets.tftp import buildAck  # noqa: E402
from tests.support.clients.tftp import rrq, wrq  # noqa: E402
from tests.support.jobs import Job, Late, eventually  # noqa: E402
from tests.support.lab.castd import Server  # noqa: E402
from tests.support.lab.forging import (  # noqa: E402
    AGAIN,
    GROUP,
    GROUP_PORT,
    Client,
    Seen,
    Tap,
    anonymous,
    attacker,
    flood,
    forge,
    forgedAnswer,
    routed,
    socketIn,
)
from tests.support.lab.hall import Hall, Host, sweep  # noqa: E402
from tests.support.needs import need  # noqa: E402
from tests.support.noise import REQUESTS  # noqa: E402

#: Forged requests a second, and whether every other one is in the name of a machine on the server's own link.
FLOODS = ((1_000, False), (5_000, False), (1_000, True), (5_000, True))
#: Trials of an honest client in each state, and seconds after which no other one begins.
TRIALS, PHASE = 7, 5.0
#: Seconds that an honest client tries; that a conversation is listened to; after a flood, until memory is looked at.
PATIENCE, LISTENING, AFTER = 10.0, 33.0, 60.0
FILE = 20_000
LARGE = 3_000_000
#: Octets of a file that is long to measure; names in a directory.
HUGE, MANY = 200_000_000, 300_000
#: Octets of a block that is uploaded; seconds that so many uploads at once may cost a client, which are no attack.
UPLOADED, UPLOADS_COST = 1428, 0.5
ANSWERS = 20
#: An attack is held if it costs an honest client no more than this: so many seconds, or so many times its time alone.
NOTICED, TIMES = 0.1, 3.0
#: Seconds that forged lists may cost a new client of SLAM (docs/security.md).
SLAM_LOSES = 4.0
NOTHING = Seen(0, 0, 0, 0)

MULTICAST = {"use": "multicast", "port": 69, "groups": "239.255.32.0/24"}
TFTP = {"tftp": {"port": 69}}
#: The transports of a service file, for each row, and the port that is flooded.
KINDS: dict[str, tuple[dict[str, dict[str, Any]], int]] = {
    "tftp": (TFTP, 69),
    "single-port": ({"tftp": {"port": 69, "single-port": True}}, 69),
    "multicast": ({"multicast": MULTICAST, **TFTP}, 69),
    "sbroadcast": ({"sbroadcast": {"port": 69, "subnets": ["10.77.0.0/16"]}, **TFTP}, 69),
    "mtftp": ({"mtftp": {"port": 1759, "files": {"large": f"{GROUP}:{GROUP_PORT}"}}, **TFTP}, 1759),
    "slam": ({"slam": {"port": 10000, "file": "large", "group": f"{GROUP}:{GROUP_PORT}"}, **TFTP}, 10000),
    "proxydhcp": ({"proxydhcp": {"rules": [{"boot": "file"}]}, **TFTP}, 4011),
}
#: Transports that serve one file, which is an honest client's, too.
ONE_FILE = ("mtftp", "slam")


def requestOf(kind: str, name: str) -> bytes:
    """Return the first datagram of an honest client."""
    match kind:
        case "slam":
            return FIRST_LIST
        case "proxydhcp":
            return REQUESTS["proxydhcp"][1].ljust(300, b"\0")
        case "multicast":
            return rrq(name, multicast="")
        case "sbroadcast":
            return rrq(name, sbroadcast="255.255.0.0")
        case _:
            return rrq(name)


@dataclass
class Costs:
    """
    One row of the first table.

    @ivar one, talk: what one forged datagram, and a conversation, have drawn.
    @ivar times: medians of the honest client: alone, and beside each of L{FLOODS}; L{None}: it was not served.
    @ivar memory: octets before, at the peak and at the end.
    @ivar kept: transfers open at the peak, and at the end.
    """

    kind: str
    one: Seen = NOTHING
    talk: Seen = NOTHING
    times: list[float | None] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Held:
    """
    One row of the second table.

    @ivar alone, beside: seconds of an honest client; L{None}: it was not served.
    @ivar held: whether the promise was kept; C{note}: what else was seen.
    """

    name: str
    alone: float | None
    beside: float | None
    held: bool
    note: str = ""


def noticed(
    name: str, alone: Sequence[float | None], beside: Sequence[float | None], note: str = "", most: float = NOTICED
) -> Held:
    """Return the row of an attack that may cost an honest client next to nothing: medians, and the worst of all."""
    quiet, busy = median(alone), median(beside)
    worst = "not served" if None in beside or not beside else f"worst {max(each or 0 for each in beside):.2f} s"
    held = quiet is not None and busy is not None and busy <= max(most, TIMES * quiet) and None not in beside
    return Held(name, quiet, busy, held, "; ".join(filter(None, [worst, note])))


def median(times: Sequence[float | None]) -> float | None:
    """Return the median, in which whoever was not served counts as the slowest."""
    if not times:
        return None
    found = statistics.median_low([float("inf") if each is None else each for each in times])
    return None if found == float("inf") else found


class Bench:
    """
    The switch with its attacker and its honest client.

    @ivar tree: the checkout whose castd is measured.
    """

    def __init__(self, hall: Hall, tree: Path) -> None:
        self.hall, self.tree = hall, tree
        self.attacker = attacker(hall)
        self._addresses = [f"10.77.3.{n}" for n in range(1, 251)] + [f"10.77.4.{n}" for n in range(1, 251)]
        self._addresses += [f"10.77.5.{n}" for n in range(1, 251)]
        self.client = hall.host("client", *self._addresses)
        #: The address of clients that may have been served before.
        self.known = self._addresses.pop()
        self._servers = 0

    def machine(self) -> Host:
        """Plug in the host of another server."""
        self._servers += 1
        host = routed(self.hall.host(f"s{self._servers}", f"10.77.0.{self._servers}"))
        (host.folder / "root").mkdir()
        (host.folder / "root" / "file").write_bytes(os.urandom(FILE))
        (host.folder / "root" / "large").write_bytes(os.urandom(LARGE))
        return host

    def serve(self, host: Host, transports: Mapping[str, dict[str, Any]], **more: Any) -> Server:
        """Start the castd of the tree at a host."""
        address = host.addresses[0]
        named = {
            name: options if options.get("use", name) == "sbroadcast" else {"interface": address, **options}
            for name, options in transports.items()
        }
        if "sbroadcast" in named:
            # What shares a port shares its address.
            named["tftp"] = {"port": 69}
        service = {
            "castd": 1,
            "content": [{"directory": {"path": str(host.folder / "root")}}],
            "access": [{"allow": "any"}],
            "limits": {"drain": "1 s"},
            "control": {"path": str(host.folder / "control")},
            **more,
            "transports": named,
        }
        return Server(host, service, tree=self.tree)

    def honest(
        self, server: Host, kind: str = "tftp", port: int = 69, name: str = "file", known: bool = False
    ) -> Client:
        """Return a client at an address that was never served; C{known}: at one that may have been."""
        address = self.known if known else self._addresses.pop(0)
        request = requestOf(kind, "large" if kind in ONE_FILE else name)
        return Client(self.client, address, (server.addresses[0], port), kind, request)

    def times(self, server: Host, kind: str = "tftp", port: int = 69, **more: Any) -> list[float | None]:
        """Have some honest clients ask, one after the other, each at an address of its own.  -> their seconds."""
        found: list[float | None] = []
        until = time.monotonic() + PHASE
        while len(found) < TRIALS and time.monotonic() < until:
            found.append(self.honest(server, kind, port, **more).fetch(PATIENCE))
            time.sleep(0.05)
        return found


def connect(control: socket.socket, host: Host, patience: float) -> None:
    """Connect to the control socket; the kernel lets nobody wait in a full queue who does not wait for ever."""
    control.settimeout(patience)
    until = time.monotonic() + patience
    while True:
        try:
            return control.connect(str(host.folder / "control"))
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.001)


def asked(host: Host) -> dict[str, Any]:
    """Return the answer of the control socket to C{status}; empty, if it gives none."""
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as control:
        connect(control, host, 5.0)
        control.sendall(b'{"do": "status"}\n')
        with control.makefile() as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    return {}


def kept(host: Host) -> int:
    """Return how many transfers a server remembers; -1: it does not say."""
    status = asked(host)
    return sum(len(each["casts"]) for each in status["addresses"]) if status.get("addresses") else -1


class Stand:
    """One transport with a server of its own, and what is found of it."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.bench, self.kind, self.found = bench, kind, Costs(kind)
        transports, self.port = KINDS[kind]
        self.host = bench.machine()
        self.server = bench.serve(self.host, transports)
        self.at = self.host.addresses[0], self.port
        self._ended = 0.0

    def ask(self, number: int, talk: bool) -> None:
        """Forge a request in the name of a machine on the link, and perhaps answers to it."""
        kind = self.kind
        request = requestOf(kind, "large")
        if talk and kind in ("tftp", "single-port"):
            request = rrq("large", blksize=1468, windowsize=64)
        source = (f"10.77.200.{number}", 68 if kind == "proxydhcp" else 2000 + number)
        forge(self.bench.attacker, source, self.at, request)
        if talk:
            for answer in range(ANSWERS):
                time.sleep(0.02)
                forge(self.bench.attacker, source, self.at, forgedAnswer(kind, answer))

    def flood(self) -> None:
        """Time honest clients alone, and beside floods of requests, each in the name of another stranger."""
        self.found.memory = [anonymous(self.server.job.pid)]
        self.found.times.append(median(self.bench.times(self.host, self.kind, self.port)))
        for rate, near in FLOODS:
            with flood(self.bench.attacker, self.at, rate, [requestOf(self.kind, "large")], near=near):
                time.sleep(2)
                self.found.times.append(median(self.bench.times(self.host, self.kind, self.port)))
                self._look(1)
        self._ended = time.monotonic()

    def rest(self) -> None:
        """Look at what is left after a minute."""
        time.sleep(max(0.0, self._ended + AFTER - time.monotonic()))
        self._look(2)
        self.server.stop()

    def _look(self, at: int) -> None:
        self.found.memory[at:] = [max([anonymous(self.server.job.pid), *self.found.memory[at:]])]
        self.found.kept[at - 1 :] = [max([kept(self.host), *self.found.kept[at - 1 :]])]


def conversations(stands: Sequence[Stand], talk: bool) -> Iterator[Seen]:
    """Forge at all servers, and return what each has sent in the time after it."""
    taps = [Tap(stand.host) for stand in stands]
    for number, stand in enumerate(stands, 10 + 100 * talk):
        stand.ask(number, talk)
    time.sleep(LISTENING)
    for tap in taps:
        yield tap.close()


#: An attack: measures, and returns its row.
Attack = Callable[[Bench], Held]


@contextmanager
def standing(bench: Bench, transports: Mapping[str, dict[str, Any]] = TFTP, **more: Any) -> Iterator[Host]:
    """Run a server within the block.  -> its host."""
    host = bench.machine()
    server = bench.serve(host, transports, **more)
    try:
        yield host
    finally:
        server.job.end(grace=3)


def forgedMissing(bench: Bench) -> Held:
    """600 requests a second for files that are not there; honest clients ask for such a file, too."""
    with standing(bench) as host:
        alone = bench.times(host, name="missing")
        with flood(bench.attacker, (host.addresses[0], 69), 600, [rrq("nothing")]):
            time.sleep(1)
            return noticed("600 requests a second for missing files", alone, bench.times(host, name="missing"))


def longInterval(bench: Bench) -> Held:
    """4,200 requests with C{timeout=255}, then an honest client, and another after 31 s at the most."""
    with standing(bench) as host:
        alone = bench.times(host)
        with flood(bench.attacker, (host.addresses[0], 69), 4200, [rrq("large", timeout=255)], count=4200) as job:
            job.until("sent", 20)
            return noticed("4,200 requests with timeout=255", alone, bench.times(host), f"{kept(host):,} remembered")


def globs(bench: Bench) -> Held:
    """A name of 200 hyphens against a pattern of six stars, ten times."""
    rules = [{"deny": "any", "names": ["pxelinux.cfg/01-*-*-*-*-*-*"]}, {"allow": "any"}]
    with standing(bench, access=rules) as host:
        alone = bench.times(host)
        with flood(bench.attacker, (host.addresses[0], 69), 10, [rrq("pxelinux.cfg/01" + "-" * 200 + "/x")]):
            time.sleep(0.5)
            return noticed("names that make patterns backtrack", alone, bench.times(host))


def oddNames(bench: Bench) -> Held:
    """200 requests a second whose names have NUL, lone surrogates and many brackets."""
    names = [b"", b"\xed\xa0\x80", b"(" * 400, b"a{99999999999}", b"../" * 100, b"\xff" * 200, b"%00", b"\n"]
    odd = [b"\0\1" + each + b"\0octet\0" for each in names]
    with standing(bench) as host:
        alone = bench.times(host)
        with flood(bench.attacker, (host.addresses[0], 69), 200, odd):
            time.sleep(0.5)
            beside = bench.times(host)
        faults = _logOf(bench, host).count("Traceback")
        found = noticed("odd names", alone, beside, f"{faults} tracebacks")
        return found if not faults else replace(found, held=False)


def _logOf(bench: Bench, host: Host) -> str:
    return "".join(each.read_text("utf-8", "replace") for each in bench.hall.folder.glob(f"*-{host.name}-*.log"))


def mtftpShutOut(bench: Bench) -> Held:
    """Requests to MTFTP, in the name of an honest client, twenty times; that one asks for the file by TFTP."""
    with standing(bench, KINDS["mtftp"][0]) as host:
        alone = bench.times(host, name="large")
        client = bench.honest(host, name="large", known=True)
        for number in range(20):
            forge(bench.attacker, (bench.known, 2000 + number), (host.addresses[0], 1759), rrq("large"))
            time.sleep(0.02)
        began = time.monotonic()
        took = client.fetch(PATIENCE)
        while client.error and time.monotonic() < began + 20:
            time.sleep(0.5)
            client = bench.honest(host, name="large", known=True)
            took = client.fetch(PATIENCE)
        whole = None if client.error or took is None else time.monotonic() - began
        return Held("MTFTP requests in a client's name", median(alone), whole, whole is not None and whole < 11.5, "")


def slamLists(bench: Bench) -> Held:
    """200 forged lists a second, each in another name, beside honest clients."""
    with standing(bench, KINDS["slam"][0]) as host:
        alone = bench.times(host, "slam", 10000)
        lists = [buildList([range(at, at + 40)]) for at in range(0, 2000, 40)]
        with flood(bench.attacker, (host.addresses[0], 10000), 200, lists):
            time.sleep(1)
            beside = bench.times(host, "slam", 10000)
        return noticed("200 forged SLAM lists a second", alone, beside, f"at most {SLAM_LOSES:g} s allowed", SLAM_LOSES)


def idleControl(bench: Bench) -> Held:
    """64 connections to the control socket that ask nothing, beside an operator who asks for the status."""

    def once(host: Host) -> float | None:
        began = time.monotonic()
        return time.monotonic() - began if asked(host) else None

    with standing(bench) as host, ExitStack() as life:
        alone = [once(host) for _ in range(TRIALS)]
        for _ in range(64):
            idle = life.enter_context(socket.socket(socket.AF_UNIX))
            with suppress(OSError):
                connect(idle, host, 0.05)
        return noticed("64 idle control connections", alone, [once(host) for _ in range(3)])


def slowDisk(bench: Bench) -> Held:
    """A directory whose file system takes 8 s for all it is asked, twelve requests for it, and clients of another."""
    host = bench.machine()
    slow = host.folder / "slow"
    slow.mkdir()
    disk = Job([sys.executable, "-m", "tests.support.slow_disk", str(slow)], bench.hall.folder / "disk.log", TREE)
    with disk:
        disk.until("ready", 10)
        disk.say("file big 200000\n")
        disk.until("done", 10)
        content = [
            {"directory": {"path": str(slow), "under": "slow"}},
            {"directory": {"path": str(host.folder / "root")}},
        ]
        server = bench.serve(host, TFTP, content=content)
        try:
            alone = bench.times(host)
            disk.say("delay 8\n")
            eventually(lambda: disk.text().count("done") == 2, "a slow disk", 10)
            to = (host.addresses[0], 69)
            with flood(bench.attacker, to, 100, [rrq(f"slow/{name}") for name in ("big", "none", "other")], count=12):
                time.sleep(0.3)
                beside = bench.times(host)
            quick = max(each or PATIENCE for each in beside) <= max(NOTICED, TIMES * (median(alone) or 0))
            found = noticed("a disk that takes 8 s", alone, beside)
            return replace(found, held=found.held and quick)
        finally:
            disk.say("delay 0\n")
            server.job.end(grace=10)
            assert disk.process.stdin is not None
            disk.process.stdin.close()
            with suppress(Late):
                disk.finish(10)


def unreadLog(bench: Bench) -> Held:
    """Standard error is a pipe that nobody reads, and full; a thousand transfers fill it."""
    host = bench.machine()
    conf, place = host.folder / "castd.yaml", host.addresses[0]
    server = {"castd": 1, "access": [{"allow": "any"}], "limits": {"new-per-peer": "10000/s", "drain": "1 s"}}
    content = [{"directory": {"path": str(host.folder / "root")}}]
    conf.write_text(
        yaml.safe_dump({**server, "content": content, "transports": {"tftp": {"port": 69, "interface": place}}})
    )
    program = ["ip", "netns", "exec", host.netns, sys.executable, "-m", "castd", "serve", "-c", str(conf)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, cwd=bench.tree) as castd:
        try:
            eventually(lambda: bench.honest(host, known=True).fetch(1.0), "castd", 15)
            alone = bench.times(host)
            until = time.monotonic() + 12
            for _ in range(1000):
                if time.monotonic() > until or bench.honest(host, known=True).fetch(2.0) is None:
                    break
            return noticed("a log that nobody reads", alone, bench.times(host))
        finally:
            castd.kill()


def portLearning(bench: Bench) -> Held:
    """Read a file, learn the port, forge a request and twenty ACKs in a victim's name to that port."""
    with standing(bench) as host:
        alone = bench.times(host)
        ports = []
        for _ in range(3):
            learner = bench.honest(host, known=True)
            learner.fetch(PATIENCE)
            ports.append(learner.server[1])
        victim, tap = ("100.127.0.99", 2000), Tap(host)
        forge(bench.attacker, victim, (host.addresses[0], 69), rrq("large", blksize=1468, windowsize=64))
        for number in range(ANSWERS):
            time.sleep(0.02)
            for port in ports:
                forge(bench.attacker, victim, (host.addresses[0], port), buildAck(64 * number))
        time.sleep(1)
        seen = tap.close()
        note = f"{seen.octets:,} octets drawn"
        return Held(
            "ACKs to a learnt port, in a victim's name",
            median(alone),
            median(bench.times(host)),
            seen.octets < 1000,
            note,
        )


@contextmanager
def descriptors(most: int, tree: Path) -> Iterator[None]:
    """Let castd, where it is started within the block, have so many descriptors, and no more."""
    words = [*need("prlimit"), f"--nofile={most}:{most}", "env", f"PYTHONPATH={tree}", sys.executable, "-m", "castd"]
    with patch.dict(os.environ, CASTD_COMMAND=shlex.join(words)):
        yield


def fewDescriptors(bench: Bench) -> Held:
    """512 clients at once, of a server that may open 1,024 descriptors: all are served, and none is told an ERROR."""
    host = bench.machine()
    limits = {"per-peer": 4096, "new-per-peer": "10000/s", "drain": "1 s"}
    with descriptors(1024, bench.tree):
        server = bench.serve(host, TFTP, limits=limits)
    try:
        alone = bench.times(host)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        clients = [bench.honest(host, known=True) for _ in range(512)]
        with ThreadPoolExecutor(len(clients)) as pool:
            took = list(pool.map(lambda each: each.fetch(30.0), clients))
        late, told = took.count(None), [each.error[4:-1].decode(errors="replace") for each in clients if each.error]
        note = f"{late} not served in 30 s, {len(told)} told: {', '.join(sorted(set(told))) or 'nothing'}"
        return Held("512 clients, 1,024 descriptors", median(alone), median(took), not late and not told, note)
    finally:
        server.job.end(grace=3)


def netascii(bench: Bench) -> Held:
    """Ten requests for a file of 200 MB as netascii, which has to be measured; clients of another file, as it is."""
    host = bench.machine()
    with (host.folder / "root" / "huge").open("wb") as huge:
        huge.truncate(HUGE)
    server = bench.serve(host, TFTP)
    try:
        alone = bench.times(host)
        asked = [rrq("huge", "netascii", tsize=0)]
        with flood(bench.attacker, (host.addresses[0], 69), 100, asked, count=10) as job:
            job.until("sent", 10)
            beside = bench.times(host)
        began = time.monotonic()
        server.stop()
        return noticed("ten netascii requests of 200 MB", alone, beside, f"stops in {time.monotonic() - began:.1f} s")
    finally:
        server.job.end(grace=3)


def ignoreCase(bench: Bench) -> Held:
    """100 requests a second for names that a directory of 300,000 has in no case, where C{ignore-case} is on."""
    host = bench.machine()
    folder = host.folder / "root" / "many"
    folder.mkdir()
    for number in range(MANY):
        os.mknod(folder / f"{number:06}")
    content = [{"directory": {"path": str(host.folder / "root"), "ignore-case": True}}]
    server = bench.serve(host, TFTP, content=content)
    try:
        alone = bench.times(host)
        missed = [rrq(f"many/Missing-{number}") for number in range(50)]
        with flood(bench.attacker, (host.addresses[0], 69), 100, missed):
            time.sleep(0.5)
            return noticed("ignore-case, 300,000 names, 100 misses a second", alone, bench.times(host))
    finally:
        server.job.end(grace=3)
        shutil.rmtree(folder)


def forgedWrites(bench: Bench) -> Held:
    """1,000 forged writes a second, of 64 names; honest clients read, and one of them uploads a file of its own."""
    host = bench.machine()
    place = host.folder / "up"
    place.mkdir(mode=0o777)
    server = bench.serve(host, TFTP, uploads=[{"directory": {"path": str(place), "policy": "overwrite"}}])
    try:
        alone = bench.times(host)
        writes = [wrq(f"up-{number}", timeout=255) for number in range(64)]
        with flood(bench.attacker, (host.addresses[0], 69), 1000, writes):
            time.sleep(1)
            beside = bench.times(host)
            began = time.monotonic()
            (stored,) = uploaded(bench, host, ["mine"], FILE)
            note = f"an upload of {FILE // 1000} kB: {seconds(time.monotonic() - began if stored else None)}"
        found = noticed("1,000 forged writes a second", alone, beside, note)
        return replace(found, held=found.held and stored)
    finally:
        server.job.end(grace=3)


def keepFree(bench: Bench) -> Held:
    """60 clients upload 1 MiB each, of no announced size, to a disk of 64 MiB of which 48 are to stay free."""
    host = bench.machine()
    place = host.folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", str(place)], check=True)
    try:
        uploads = [{"directory": {"path": str(place), "keep-free": "48 MiB"}}]
        server = bench.serve(host, TFTP, uploads=uploads, limits={"new-per-peer": "10000/s", "drain": "1 s"})
        try:
            alone = bench.times(host)
            with ThreadPoolExecutor(1) as pool:
                many = pool.submit(uploaded, bench, host, [f"up-{number}" for number in range(60)], 1 << 20)
                beside = bench.times(host)
                stored = sum(many.result())
            disk = os.statvfs(place)
            free = disk.f_bavail * disk.f_frsize / (1 << 20)
            note = f"{stored} stored, {free:.1f} MiB free; at most {UPLOADS_COST:g} s allowed"
            found = noticed("60 uploads to a disk with room for 16", alone, beside, note, UPLOADS_COST)
            return replace(found, held=found.held and free >= 48)
        finally:
            server.job.end(grace=3)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def uploaded(bench: Bench, host: Host, names: Sequence[str], size: int) -> list[bool]:
    """Upload so many octets under each of these names, all at once, block by block.  -> which of them are stored."""
    ends: dict[int, tuple[int, socket.socket]] = {}
    sent, again = [0] * len(names), time.monotonic() + AGAIN
    found: list[bool | None] = [None] * len(names)
    last = size // UPLOADED + 1
    poll, until = select.poll(), time.monotonic() + PATIENCE
    with ExitStack() as life:
        for number, name in enumerate(names):
            end = life.enter_context(socketIn(bench.client.netns))
            end.bind((bench.known, 0))
            ends[end.fileno()] = (number, end)
            poll.register(end, select.POLLIN)
            end.sendto(wrq(name, blksize=UPLOADED), (host.addresses[0], 69))
        while None in found and (now := time.monotonic()) < until:
            for number, end in ends.values() if now >= again else ():
                if not sent[number]:
                    end.sendto(wrq(names[number], blksize=UPLOADED), (host.addresses[0], 69))
            again = now + AGAIN if now >= again else again
            for ready, _ in poll.poll(100):
                number, end = ends[ready]
                packet, there = end.recvfrom(2048)
                if packet[:2] == b"\0\5":
                    found[number] = False
                elif packet[:2] == b"\0\6" or packet[2:4] == (sent[number] & 0xFFFF).to_bytes(2, "big"):
                    if sent[number] == last:
                        found[number] = True
                        continue
                    sent[number] += 1
                    octets = size % UPLOADED if sent[number] == last else UPLOADED
                    end.sendto(b"\0\3" + (sent[number] & 0xFFFF).to_bytes(2, "big") + bytes(octets), there)
    return [bool(each) for each in found]


def plantedLinks(bench: Bench) -> Held:
    """
    In a folder where everybody may write the JSON log is exchanged for a link to a file of root's, a hundred times,
    and castd told to open it again; honest clients are served, and the file stays as it is.
    """
    host = bench.machine()
    folder, victim = host.folder / "shared", host.folder / "victim"
    folder.mkdir()
    folder.chmod(0o777)
    victim.write_text("untouched")
    log = folder / "castd.json"
    server = bench.serve(host, TFTP, logging={"json": str(log)})
    try:
        alone = bench.times(host)
        beside: list[float | None] = []
        for number in range(100):
            log.unlink(missing_ok=True)
            log.symlink_to(victim)
            server.job.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
            if number % 20 == 10:
                beside.append(bench.honest(host).fetch(PATIENCE))
        touched = victim.read_text() != "untouched"
        found = noticed("planted links at the JSON log", alone, beside, "the file was touched" if touched else "")
        return replace(found, held=found.held and not touched)
    finally:
        server.job.end(grace=3)


ATTACKS: dict[str, Attack] = {
    "port": portLearning,
    "globs": globs,
    "interval": longInterval,
    "missing": forgedMissing,
    "odd": oddNames,
    "mtftp": mtftpShutOut,
    "slam": slamLists,
    "control": idleControl,
    "disk": slowDisk,
    "log": unreadLog,
    "descriptors": fewDescriptors,
    "netascii": netascii,
    "ignore-case": ignoreCase,
    "writes": forgedWrites,
    "keep-free": keepFree,
    "links": plantedLinks,
}


COLUMNS = (
    "transport",
    "one forged datagram draws, datagrams of octets; to groups",
    "and twenty answers; to groups",
    "honest client alone",
    "beside 1,000 a second of strangers",
    "5,000 of strangers",
    "1,000, half of them neighbours",
    "5,000, half of them neighbours",
    "memory before, at the peak, after 60 s",
    "transfers kept; after 60 s",
)


def seconds(value: float | None) -> str:
    """Return a time for a table."""
    return f"> {PATIENCE:g} s" if value is None else f"{value:.3f} s"


def tables(costs: Sequence[Costs], rows: Sequence[Held]) -> list[str]:
    """Return both tables, in Markdown."""
    lines = []
    if costs:
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for each in costs:
        drawn = " | ".join(
            f"{seen.datagrams:,} of {seen.octets:,}; {seen.groupDatagrams:,} of {seen.groupOctets:,}"
            for seen in (each.one, each.talk)
        )
        times = " | ".join(map(seconds, each.times))
        memory = ", ".join(f"{octets / 1e6:.1f}" for octets in each.memory)
        lines.append(f"| {each.kind} | {drawn} | {times} | {memory} MB | {', '.join(map(str, each.kept))} |")
    if rows:
        lines += ["", "| attack | honest client alone | beside it | held | |", "|---|---|---|---|---|"]
    for row in rows:
        held = "yes" if row.held else "**no**"
        lines.append(f"| {row.name} | {seconds(row.alone)} | {seconds(row.beside)} | {held} | {row.note} |")
    return lines


def measure(bench: Bench, kinds: Sequence[str]) -> tuple[list[Stand], list[Costs]]:
    """Measure the first table, all but what is left after a minute."""
    stands = [Stand(bench, kind) for kind in kinds]
    for talk in (False, True) if stands else ():
        for stand, seen in zip(stands, conversations(stands, talk), strict=True):
            if talk:
                stand.found.talk = seen
            else:
                stand.found.one = seen
    for stand in stands:
        stand.flood()
        click.echo(f"{stand.kind}: {stand.found.times}", err=True)
    return stands, [stand.found for stand in stands]


@click.command()
@click.option("--tree", type=click.Path(path_type=Path, exists=True), default=TREE, help="The checkout to be measured.")
@click.option("--kinds", default=",".join(KINDS), help="Transports, of all; empty: none.")
@click.option("--attacks", default=",".join(ATTACKS), help="Attacks, of all; empty: none.")
@click.option("--docs", is_flag=True, help="Write the tables into docs/security.md.")
def main(tree: Path, kinds: str, attacks: str, docs: bool) -> None:
    """Print the tables."""
    sweep()
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder, Hall(Path(folder)) as hall:
        bench = Bench(hall, tree.resolve())
        stands, costs = measure(bench, [each for each in kinds.split(",") if each])
        rows = []
        for name in filter(None, attacks.split(",")):
            try:
                rows.append(ATTACKS[name](bench))
            except Late as late:
                rows.append(Held(name, None, None, False, str(late).partition("\n")[0]))
            click.echo(f"{rows[-1]}", err=True)
        for stand in stands:
            stand.rest()
    lines = tables(costs, rows)
    click.echo("\n".join(lines))
    if docs:
        fillIn("security.md", "attacks.py", [f"{today()}.", "", *lines])


if __name__ == "__main__":
    main()
