"""
Twelve machines of one hall that fail at the same time, each for a reason of its own, beside one that boots and one that
is never heard of; and what castd says of them in each of its places.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from castd.cli import main
from castd.cli.control import ask
from tests.support.jobs import Job, eventually
from tests.support.lab.castd import TREE, Server, command
from tests.support.lab.clients import SERVER, Transfer, atftp, busybox, curl, hasty, hpa
from tests.support.lab.hall import Hall, ip
from tests.support.lab.machines import sayDhcp
from tests.support.lab.wires import deafening, delaying
from tests.support.needs import need, needed, run
from tests.support.pxe import discover

SIXTH = "fd77::1"
GROUPS = "239.255.32."
WEB = "127.0.0.1:9147"
#: The machine that never asks.
MUTE = "mute"
#: Seconds that each ACK of a machine on a slow wire takes: its file lasts longer than all of this.
SLOW = 0.03
SLOW_OCTETS = 4 << 20
#: Seconds until all twelve have failed, on a machine that has much else to do; the size alone takes half a minute.
PATIENCE = 90.0

#: A firewall of the machine that knows nothing of TFTP: what comes from a port that was not asked is dropped.
FIREWALL = "table inet wall {\n chain in {\n type filter hook input priority 0;\n udp sport != 69 drop\n }\n}\n"

#: What UEFI sends to learn the size of a file: the request, and an ERROR in place of the first ACK.
PROBE = f"""
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(2)
while True:
    link.sendto(b"\\0\\1probe.img\\0octet\\0tsize\\x000\\0blksize\\x001468\\0", ("{SERVER}", 69))
    try:
        _, server = link.recvfrom(2048)
        break
    except TimeoutError:
        pass
link.sendto(b"\\0\\5\\0\\x08User aborted the transfer\\0", server)
"""


@dataclass(frozen=True)
class Fault:
    """
    How one machine fails.

    @ivar verdict: the word of the table of verdicts.
    @ivar cause: a pattern of what is said of it in all places, and of no other machine in any.
    @ivar cure: a part of what is to be done.
    @ivar name: the file it asks for, or sends if C{write}.
    @ivar options, granted: some of those of its request, and of the answer.
    """

    verdict: str
    cause: str
    cure: str
    name: str
    write: bool = False
    options: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()


FAULTS = {
    "missing": Fault("missing", "File not found", "put the file there", "missing.img"),
    "case": Fault("case", r"case\.img(,| is there, and) (which )?differs in case", "ignore-case: true", "CASE.img"),
    "access": Fault(
        "rule",
        "denied by the access rule at|the access rule at",
        "change that rule",
        "secret/access.img",
        False,
        ("blksize=1428",),
    ),
    "limit": Fault("limit", r"limits\.per-peer(: | is reached|: is reached)", "raise it", "limit.img"),
    "nat": Fault(
        "port-closed", "its port was closed at once: .*a NAT does not know it", "single-port: true", "nat.img"
    ),
    "firewall": Fault("unreachable", "nothing but its request was heard", "single-port: true", "firewall.img"),
    "narrow": Fault(
        "mtu",
        "no block of 1428 octets",
        "caps: [{clients: fd78:",
        "narrow.img",
        False,
        ("blksize=1428",),
        ("blksize=1428",),
    ),
    "deaf": Fault(
        "no-multicast",
        "it hears nothing of the group",
        "IGMP snooping",
        "deaf.img",
        False,
        ("blksize=1428", "multicast="),
        ("blksize=1428",),
    ),
    "dead": Fault("silent", "it answered, and then no more", "windowsize: 8", "dead.img"),
    "probe": Fault(
        "size-only",
        "UEFI does so with a file that it will not load",
        "Secure Boot",
        "probe.img",
        False,
        ("tsize=0", "blksize=1468"),
        ("tsize=20000", "blksize=1468"),
    ),
    "full": Fault("full", "too little space left|No space left", "make room", "full.img", write=True),
    "changed": Fault(
        "changed", "the file could not be sent to its end as it was: the file shrank", "by renaming", "changed.img"
    ),
}
"""The twelve, by the names of their hosts."""


@dataclass
class Seen:
    """
    What castd has said.

    @ivar addresses: of each machine, as castd sees it, C{fine} and C{mute} too.
    @ivar macs: of each machine, or of the router that it is behind.
    @ivar service: the service file.
    @ivar log: the lines on the standard error.
    @ivar events: the objects of the JSON log.
    @ivar early: C{castd status --json} while some transfers were under way, the latter C{status} at the end.
    @ivar history: C{castd history --json} with these words, by these words.
    @ivar explained: C{castd explain --running} of what each machine had asked for.
    @ivar page, report: the page, and its JSON.
    @ivar captures: the folder of captures; C{record} is what C{castd record} has written all the time.
    """

    addresses: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    service: Path = Path()
    log: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    early: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    history: dict[tuple[str, ...], str] = field(default_factory=dict)
    explained: dict[str, str] = field(default_factory=dict)
    page: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    captures: Path = Path()
    record: Path = Path()


class Twelve:
    """The hall, from its begin until all twelve have failed."""

    def __init__(self, hall: Hall) -> None:
        need("nft", "atftp", "curl", "busybox", "tftp", "tshark")
        self.hall, self.folder = hall, hall.folder
        self.control = str(self.folder / "control")
        self.seen = Seen(captures=self.folder / "captures", record=self.folder / "record.pcapng")
        self._life = contextlib.ExitStack()
        self._transfers: dict[str, Transfer | Job] = {}

    # The hall.

    def _plugIn(self) -> None:
        far = {"narrow": {"mtu": 1400, "icmp": False}, "nat": {"mtu": 1500, "nat": True}}
        for name in [*FAULTS, "fine", MUTE]:
            host = self.hall.beyond(name, **far[name]) if name in far else self.hall.host(name)
            self.seen.addresses[name] = host.addresses[1] if name == "narrow" else host.outside
            self.seen.macs[name] = host.mac
        run(*self._inside("firewall", "nft", "-f", "-"), input=FIREWALL, check=True)
        for name in ("limit", "dead", "changed"):
            self._life.enter_context(delaying(self.hall, name, "from", SLOW, match="@th,64,16 4"))
        self._life.enter_context(deafening(self.hall, ["deaf"]))

    def _inside(self, name: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.hall.hosts[name].netns, *needed(words)]

    def _files(self) -> None:
        for name in ("shelf/secret", "disk", "captures"):
            (self.folder / name).mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "castd", self.folder / "disk", check=True)
        self._life.callback(run, "umount", "-l", self.folder / "disk")
        slow = {"limit", "dead", "changed"}
        for name in {*FAULTS, "fine"} - {"missing", "full"}:
            path = f"secret/{name}.img" if name == "access" else f"{name}.img"
            (self.folder / "shelf" / path).write_bytes(bytes(SLOW_OCTETS if name in slow else 20_000))

    def _serve(self) -> Server:
        folder = self.folder
        tftp = {"port": 69, "silence": "2 s"}
        return Server(
            self.hall.hosts["server"],
            {
                "castd": 1,
                "content": [{"directory": {"path": str(folder / "shelf")}}],
                "uploads": [{"directory": {"path": str(folder / "disk"), "keep-free": 0}}],
                "access": [{"deny": "any", "names": ["secret/**"]}, {"allow": "any"}],
                "limits": {"per-peer": 2, "drain": "1 s"},
                "logging": {"level": "debug", "json": str(folder / "log.json")},
                "history": {"path": str(folder / "history.sqlite")},
                # All packets: also those of an upload that is over in less than a second.
                "recorder": {"directory": str(folder / "captures"), "packets": 4096, "memory": "256 MiB"},
                "control": {"path": self.control},
                "metrics": {"listen": WEB},
                "transports": {
                    "multicast": {**tftp, "interface": SERVER, "groups": f"{GROUPS}0/24"},
                    "tftp": {**tftp, "interface": SERVER},
                    "six": {**tftp, "use": "tftp", "interface": SIXTH},
                    "proxydhcp": {"interface": SERVER, "rules": [{"boot": "fine.img"}]},
                },
            },
        )

    # What happens.

    def play(self) -> Seen:
        """Let all twelve fail.  -> what castd says, while it still runs."""
        with self._life:
            self._plugIn()
            self._files()
            server = self._serve()
            self._life.callback(server.stop)
            self.seen.service = server.host.folder / "castd.yaml"
            self._start()
            self._endTwo()
            eventually(lambda: self._told() == set(FAULTS), "twelve verdicts", PATIENCE, every=0.2)
            self._lookAtAll(server)
            for each in self._transfers.values():
                (each if isinstance(each, Job) else each.job).end(signal.SIGKILL)
        return self.seen

    def _start(self) -> None:
        hosts, started = self.hall.hosts, self._transfers
        words = [*command(), "record", "--control", self.control, "--seconds", "3600", "-o", str(self.seen.record)]
        started["record"] = hosts["server"].start(words, cwd=TREE)
        eventually(self.seen.record.exists, "castd record to begin", 30)
        for name in ("fine", "missing"):
            sayDhcp(hosts[name], discover(self.seen.macs[name]))
        started["probe"] = hosts["probe"].start([sys.executable, "-c", PROBE])
        for number in (1, 2):
            started[f"limit {number}"] = atftp.get(hosts["limit"], "limit.img")
        started["dead"] = atftp.get(hosts["dead"], "dead.img")
        started["changed"] = busybox.get(hosts["changed"], "changed.img")
        started["missing"] = curl.get(hosts["missing"], "missing.img")
        started["case"] = busybox.get(hosts["case"], "CASE.img")
        started["access"] = atftp.get(hosts["access"], "secret/access.img", "blksize 1428")
        started["nat"] = hasty.get(hosts["nat"], "nat.img")
        started["firewall"] = hpa.get(hosts["firewall"], "firewall.img")
        started["narrow"] = curl.get(hosts["narrow"], "narrow.img", "--tftp-blksize", "1428", server=SIXTH)
        started["deaf"] = atftp.get(hosts["deaf"], "deaf.img", "blksize 1428", "multicast")
        started["full"] = hpa.put(hosts["full"], "full.img", bytes(3 << 20))
        started["fine"] = curl.get(hosts["fine"], "fine.img")

    def _under(self, name: str) -> list[int]:
        """Return how many blocks each transfer of a machine that is under way has got."""
        found, address = ask(self.control, "status"), self.seen.addresses[name]
        receivers = [each for at in found["addresses"] for cast in at["casts"] for each in cast["receivers"]]
        return [each["sent"] for each in receivers if each["peer"].startswith(f"{address}:")]

    def _endTwo(self) -> None:
        """Once the slow ones have begun: a third request of one, the second loses its power, the third its file."""
        for name, count in (("dead", 1), ("changed", 1), ("limit", 2)):
            what = f"{name} to be under way"
            eventually(lambda name=name, count=count: [n > 3 for n in self._under(name)] == [True] * count, what, 40)
        argv = [*command(), "status", "--control", self.control, "--json"]
        self.seen.early = json.loads(self.hall.hosts["server"].start(argv, cwd=TREE).finish(60).text)
        self._transfers["limit 3"] = hpa.get(self.hall.hosts["limit"], "limit.img")
        ip(netns=self.hall.netns, batch=["link set dead down"])
        (self.folder / "shelf" / "changed.img").write_bytes(b"")

    def _told(self) -> set[str]:
        """Return the machines that castd has a verdict on."""
        names = {address: name for name, address in self.seen.addresses.items()}
        told = {names.get(each.get("peer_address", "")) for each in self._events() if "verdict" in each}
        return {name for name in told if name in FAULTS}

    def _events(self) -> list[dict[str, Any]]:
        text = (self.folder / "log.json").read_text()
        # The last line may not be whole yet.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    # What is asked.

    def _castd(self, *words: str) -> str:
        """Return what a command says that asks the server.  (In this process: it is begun 30 times.)"""
        done = CliRunner().invoke(main.main, [words[0], "--control", self.control, *words[1:]])
        return done.output

    def _fetch(self, path: str) -> str:
        done = self.hall.hosts["server"].start(["curl", "-sS", f"http://{WEB}/{path}"]).finish(60)
        assert done.code == 0, done.text
        return done.text

    def _lookAtAll(self, server: Server) -> None:
        seen = self.seen
        seen.explained = {name: self._castd(*self._question(name)) for name in FAULTS}
        asked: Sequence[tuple[str, ...]] = (
            ("--json",),
            ("--failed", "--json"),
            ("--since", "1 h", "--json"),
            *(("--client", address) for address in seen.addresses.values()),
            ("--client", seen.macs["missing"]),
        )
        seen.history = {words: self._castd("history", *words) for words in asked}
        seen.status = json.loads(self._castd("status", "--json"))
        seen.page, seen.report = self._fetch(""), json.loads(self._fetch("status.json"))
        record = self._transfers["record"]
        assert isinstance(record, Job)
        record.end(signal.SIGINT)
        seen.log, seen.events = server.log(), self._events()

    def _question(self, name: str) -> list[str]:
        fault = FAULTS[name]
        options = [f"--options={each}" for each in fault.options]
        write = ["--write", "--options=tsize=3145728"] if fault.write else []
        client = ["--client", self.seen.addresses[name], "--name", fault.name]
        return ["explain", "--running", *client, *options, *write]
