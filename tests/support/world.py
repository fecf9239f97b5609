"""
Runs a whole castd on loopback in virtual time: every transport, uploads of every policy, and a client for each.
"""

from __future__ import annotations

import io
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from castd.client.client import fetch, send
from castd.client.transfer import ClientTransfer, TransferError
from castd.client.urls import parseUrl
from castd.config import yaml
from castd.config.config import Config, build
from castd.config.plugin import collect
from castd.net.ports import Ports
from castd.receive.group import SbroadcastDownload
from castd.receive.options import RequestedOptions
from castd.service.logs import textLog
from castd.service.service import compose, kinds
from castd.testing import ReceivedFile, pattern
from tests.support.descriptors import openFiles
from tests.support.disks import inThisThread
from tests.support.fakes import LOOPBACK, Hand
from tests.support.log import observed

COLLECTED = collect()
SIZE = 9_000
OLD = b"what was here before"

SERVICE = """
castd: 1
content:
  - directory: {{path: boot}}
  - directory: {{path: more, ignore-case: true}}
uploads:
  - directory: {{path: create, under: create, keep-free: 0}}
  - directory: {{path: overwrite, under: overwrite, policy: overwrite, keep-free: 0}}
  - directory: {{path: existing, under: existing, policy: existing, keep-free: 0}}
access: [{{allow: any}}]
transports:
  multicast: {{port: {0}, interface: 127.0.0.1, groups: 239.255.77.0/24, data-port: {1}, clients: [127.0.0.0/8]}}
  tftp: {{port: {0}, interface: 127.0.0.1}}
  single: {{use: tftp, port: {2}, single-port: true}}
  sbroadcast: {{port: {3}, interface: 127.0.0.1, data-port: {4}, subnets: [10.0.0.0/16]}}
  mtftp: {{port: {5}, interface: 127.0.0.1, files: {{passes: "239.255.78.1:{6}"}}, clients: [127.0.0.0/8]}}
  slam: {{port: {7}, interface: 127.0.0.1, file: lists, group: "239.255.78.2:{8}"}}
"""


class Job:
    """
    One client at work.

    @ivar outcome: L{None} while it is; C{True}: it has the file, and the file is whole; else why not.
    """

    def __init__(self, name: str, begun: Deferred[Any], check: Callable[[], bool]) -> None:
        self.name = name
        self.outcome: object = None
        self._check = check
        begun.addCallbacks(self._done, self._failed)

    def _done(self, report: object) -> None:
        self.outcome = True if self._check() else "it was told that all is well, and it is not"

    def _failed(self, failure: Any) -> None:
        failure.trap(TransferError)
        self.outcome = f"{failure.value.outcome}: {failure.value}"


class World:
    """
    The server and its machine.

    @ivar events: what was logged; C{log}: as an operator sees it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reactor = Hand()
        self.events: list[LogEvent] = []
        self.log = io.StringIO()
        self._life = ExitStack()
        self._life.enter_context(observed(self.events.append, textLog(self.log)))
        self._furnish()
        self.numbers = free(9)
        text = SERVICE.format(*self.numbers).encode()
        config = onLoopback(build(yaml.parse(text, "castd.yaml"), folder / "castd.yaml", kinds(COLLECTED)))
        self.ports = Ports(self.reactor, random.Random(1))
        self.server = compose(config, COLLECTED, self.reactor, self.ports, random.Random(2))
        self.site: Any = self.server.site
        inThisThread(self.site)
        self.before = self.descriptors()
        self.server.privilegedStartService()
        self.server.startService()
        self._round = 0

    def _furnish(self) -> None:
        for each in ("boot", "more", "more/deep", "create", "overwrite", "existing"):
            (self.folder / each).mkdir(exist_ok=True)
        data = pattern(SIZE)
        for each in ("passes", "lists", "group", "subnet"):
            (self.folder / "boot" / each).write_bytes(data)
        for each in ("plain", "window", "text", "desk"):
            (self.folder / "more" / each).write_bytes(data)
        (self.folder / "more" / "deep" / "real").write_bytes(data)
        (self.folder / "more" / "link").symlink_to("deep/real")
        for policy in ("overwrite", "existing"):
            (self.folder / policy / "log").write_bytes(OLD)

    # Clients

    def clients(self) -> list[Job]:
        """Start one client of each kind."""
        ask = self._fetch
        request, _, single, subnet, _, passes, _, lists, _ = self.numbers
        return [
            ask("lockstep", f"tftp://{LOOPBACK}:{request}/plain", RequestedOptions()),
            ask("window", f"tftp://{LOOPBACK}:{request}/window", RequestedOptions(blksize=1000, windowsize=4)),
            ask("link", f"tftp://{LOOPBACK}:{request}/LINK", RequestedOptions(blksize=1428)),
            ask("deep", f"tftp://{LOOPBACK}:{request}/DEEP/real", RequestedOptions(blksize=1428)),
            ask("text", f"tftp://{LOOPBACK}:{request}/text;mode=netascii", RequestedOptions(blksize=1428)),
            ask("desk", f"tftp://{LOOPBACK}:{single}/desk", RequestedOptions(blksize=1428)),
            ask("member", f"tftm://{LOOPBACK}:{request}/group", RequestedOptions(blksize=1428)),
            ask("another", f"tftm://{LOOPBACK}:{request}/group", RequestedOptions(blksize=1428)),
            self._subnet(subnet),
            ask(
                "passes", f"mtftp://{LOOPBACK}:{passes}/passes;group=239.255.78.1:{self.numbers[6]}", RequestedOptions()
            ),
            ask("lists", f"slam://{LOOPBACK}:{lists}/239.255.78.2:{self.numbers[8]}", RequestedOptions()),
            *self._uploads(request, single),
        ]

    def _fetch(self, name: str, url: str, requested: RequestedOptions) -> Job:
        sink = ReceivedFile()
        begun = fetch(self.reactor, parseUrl(url), sink, requested)
        return Job(name, begun, lambda: bytes(sink.data) == pattern(SIZE))

    def _subnet(self, port: int) -> Job:
        sink = ReceivedFile()
        collector = SbroadcastDownload("subnet", "255.255.0.0")
        collector.group = ("", self.numbers[4])
        transfer = ClientTransfer(self.reactor, collector, (LOOPBACK, port), sink, None)
        return Job("subnet", transfer.start(), lambda: bytes(sink.data) == pattern(SIZE))

    def _uploads(self, request: int, single: int) -> Iterator[Job]:
        self._round += 1
        for path, port in (
            (f"create/{self._round}", request),
            (f"create/desk{self._round}", single),
            ("overwrite/log", request),
            ("existing/log", request),
        ):
            yield self._put(path, port, pattern(SIZE) + b"%d" % self._round)

    def _put(self, path: str, port: int, data: bytes) -> Job:
        url = parseUrl(f"tftp://{LOOPBACK}:{port}/{path}")
        begun = send(
            self.reactor, url, len(data), lambda start, length: data[start : start + length], RequestedOptions()
        )
        return Job(path, begun, lambda: (self.folder / path).read_bytes() == data)

    # Its life

    def settle(self, jobs: list[Job]) -> None:
        """Run until every client has ended."""
        try:
            self.reactor.run(lambda: all(job.outcome is not None for job in jobs), 300)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[job.name for job in jobs if job.outcome is None]}") from None

    def quiet(self) -> None:
        """Let time pass until the last timer of the server has expired."""
        self.reactor.run(lambda: not self.site.admission.casts and not self.site.admission.looking, 120)
        self.reactor.rest(31)

    def close(self) -> None:
        """Stop the server, and remove the observers of its log."""
        over: list[object] = []
        self.server.stopService().addBoth(over.append)
        self.reactor.run(lambda: over, 60)
        self.ports.closeIdle()
        self._life.close()

    def leaked(self) -> list[str]:
        """Return what the server still holds while it serves nobody, and should not."""
        admission, timers = self.site.admission, self.site.timers
        stocked = 2 * self.ports.idle
        held = len(set(self.descriptors()) - set(self.before)) - len(self.server.addresses) - stocked
        listeners = [each.transport for each in self.server.addresses]
        found = {
            "casts": admission.casts,
            "looking": admission.looking,
            "receivers": admission.receivers.total(),
            "alarms": len(timers._targets),
            "living": sum(len(list(each.casts())) for each in listeners),
            "groups": len(self.site.groupPool._allocated),
            "uploads": sum(len(each.uploads.byKey) for chain in self.site.sinks.values() for each in chain.directories),
            "descriptors": held,
        }
        return [f"{many} {what}" for what, many in found.items() if many]

    def descriptors(self) -> list[str]:
        """Return the sockets of this process, and the files that it has open in the folder."""
        return [each for each in openFiles() if each.startswith(("socket:", str(self.folder)))]

    def files(self) -> dict[str, bytes]:
        """Return all files in the upload directories, hidden ones too."""
        found = {}
        for policy in ("create", "overwrite", "existing"):
            for file in (self.folder / policy).iterdir():
                found[f"{policy}/{file.name}"] = file.read_bytes()
        return found


def onLoopback(config: Config) -> Config:
    """Broadcast to the loopback subnet, which no service file may ask for."""
    subnets = (IPv4Network("127.0.0.0/16"),)
    entries = [
        replace(
            each,
            options=each.options.model_copy(update={"subnets": subnets}) if each.kind == "sbroadcast" else each.options,
        )
        for each in config.transports
    ]
    return replace(config, transports=tuple(entries))


def free(many: int) -> list[int]:
    """Return numbers of ports that nobody has now, and that the system gives to nobody who asks for any."""
    found: list[int] = []
    for number in random.SystemRandom().sample(range(12_000, 32_000), 1000):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried, suppress(OSError):
            tried.bind(("", number))
            found.append(number)
        if len(found) == many:
            break
    return found
