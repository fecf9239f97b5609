"""SIGHUP while real clients are served by every transport: nobody breaks, and what is asked for next is what is new."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from castd.net.port_stock import UNUSED_FOR
from tests.e2e.conftest import DRAIN
from tests.e2e.test_slam import CLIENT
from tests.support.jobs import Job, eventually
from tests.support.lab.castd import Server
from tests.support.lab.clients import SERVER, Result, Transfer, atftp, curl, mget
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 300_000
SLOW, FAST = "1 MB/s", "1000 MB/s"
"""Of all casts together: slow until everybody is in the middle, and then, by the reload, fast."""

SWEEP = "30 kB/s"
"""Of SLAM's, which would take most of that for itself."""

SECONDS = 90.0
GROUP, OTHER = "239.255.1.1:3001", "239.255.1.2:3002"


class Castd:
    """A server with two epochs of content, its service file, and its control socket."""

    def __init__(self, hall: Hall, folder: Path) -> None:
        self.host, self.folder = hall.hosts["server"], folder
        self.data = {epoch: random.Random(epoch).randbytes(SIZE) for epoch in ("old", "new")}
        for epoch, data in self.data.items():
            (folder / epoch).mkdir()
            for name in ("file", "pass", "secret"):
                (folder / epoch / name).write_bytes(data)
        self.service: dict[str, Any] = {
            "castd": 1,
            "content": [{"directory": {"path": str(folder / "old")}}],
            "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": DRAIN, "rate": SLOW},
            "control": {"path": str(folder / "control")},
            "transports": {
                "multicast": {"port": 69, "interface": SERVER, "groups": "239.255.32.0/24"},
                "tftp": {"port": 69, "interface": SERVER},
                "mtftp": {"port": 1759, "interface": SERVER, "files": {"pass": GROUP}},
                "slam": {"port": 10000, "interface": SERVER, "file": "file", "rate": SWEEP},
            },
        }
        self.server = Server(self.host, self.service)

    def changed(self) -> dict[str, Any]:
        """Return other content, access, limits and options; a transport more."""
        new = copy.deepcopy(self.service)
        new["content"] = [{"directory": {"path": str(self.folder / "new")}}]
        new["access"] = [{"deny": "any", "names": ["secret"]}, {"allow": "any"}]
        new["limits"]["rate"] = FAST
        transports = new["transports"]
        transports["multicast"] |= {"data-port": 1999, "blksize": 1024}
        transports["tftp"] |= {"blksize": 1024}
        transports["mtftp"]["files"] = {"pass": OTHER}
        transports["slam"] |= {"blksize": 1024}
        transports["extra"] = {"use": "tftp", "port": 70, "interface": SERVER}
        return new

    def hangup(self, service: dict[str, Any], said: str = "is in force") -> str:
        """The service file becomes this, and castd is told.  -> what it said since."""
        since = len(self.server.log())
        conf = self.host.folder / "castd.yaml"
        fresh = conf.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(service, sort_keys=False))
        fresh.rename(conf)
        self.server.job.process.send_signal(signal.SIGHUP)
        return self.server.job.until(said, 10, since)[since:]

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
            asker.settimeout(10)
            asker.connect(str(self.folder / "control"))
            asker.sendall(b'{"do": "status"}\n')
            with asker.makefile() as answer:
                found: dict[str, Any] = json.loads(answer.readline())
        return found

    def settled(self) -> dict[str, Any]:
        """Return a status in which no port was opened for later or closed: descriptors are counted after the ports."""

        def between() -> dict[str, Any] | None:
            found = [self.status() for _ in range(3)]
            return found[1] if len({each["held"]["ports"] for each in found}) == 1 else None

        settled = eventually(between, "no port to be opened or closed", SECONDS)
        assert settled is not None
        return settled

    def casts(self) -> list[dict[str, Any]]:
        return [cast for address in self.status()["addresses"] for cast in address["casts"]]

    def quiet(self) -> dict[str, int]:
        """Wait until nobody is left, and no port is kept for later.  -> what the server holds then."""

        def held() -> dict[str, int] | None:
            found: dict[str, int] = self.status()["held"]
            busy = found["casts"] or found["looking"] or found["alarms"] or found.pop("ports")
            return None if busy else found

        found = eventually(held, "all casts to end", SECONDS + UNUSED_FOR, every=0.5)
        assert found is not None
        return found


@pytest.fixture
def castd(hall: Hall, tmp_path: Path) -> Iterator[Castd]:
    need("atftp", "curl")
    made = Castd(hall, tmp_path)
    with contextlib.ExitStack() as life:
        life.callback(made.server.stop)
        yield made


def slam(host: Host, kind: str, number: int) -> Job:
    words = [sys.executable, str(CLIENT), "--kind", kind, "--server", f"{SERVER}:10000", "--seed", str(number)]
    return host.start([*words, "--interface", host.addresses[0], "--limit", str(SECONDS)])


def listen(place: str) -> tuple[str, str]:
    group, _, port = place.partition(":")
    return f"mcast-ip {group}", f"client-port {port}"


def digest(job: Job) -> str | None:
    found: str | None = json.loads(job.finish(SECONDS).text.splitlines()[-1])["sha256"]
    return found


def results(transfers: list[Transfer]) -> list[Result]:
    return [transfer.result(SECONDS) for transfer in transfers]


def test_inTheMiddle(hall: Hall, castd: Castd) -> None:
    """
    64 transfers, a group, a pass and a sweep that a reload meets half-way end with the file they began with; whoever
    asks next gets the other file by the other options, or is refused by the other rules.
    """
    clients = hall.clients(16)
    old, new = (castd.data[epoch] for epoch in ("old", "new"))
    plain = [atftp.get(client, "file", "blksize 1428") for client in clients for _ in range(4)]
    group = [atftp.get(client, "file", "multicast", "blksize 1428") for client in clients[:4]]
    passes = [mget.get(client, "pass", *listen(GROUP), port=1759) for client in clients[4:7]]
    kinds = ("ipxe", "etherboot")
    sweep = [slam(client, kinds[number % 2], number) for number, client in enumerate(clients[8:12])]
    # Of a sweep those who have not spoken are not known.
    wanted = {"tftp": 64, "multicast": 4, "mtftp": 3, "slam": 1}

    def middle() -> bool:
        found = dict.fromkeys(wanted, 0)
        for cast in castd.casts():
            under = [each for each in cast["receivers"] if cast["blocks"] > 0 and each["sent"] < each["needed"]]
            found[cast["transport"]] += len(under)
        return all(found[name] >= count for name, count in wanted.items())

    eventually(middle, "everybody to be in the middle of it", SECONDS)
    castd.hangup(castd.changed())
    assert len(castd.casts()) >= len(plain), "the reload has met them"
    late = curl.get(clients[15], "file")
    refused, added = atftp.get(clients[14], "secret"), curl.get(clients[13], "file", port=70)
    assert late.result(SECONDS).data == new
    assert added.result(SECONDS).data == new
    assert refused.result(SECONDS).code != 0
    assert [each.data == old for each in results([*plain, *group, *passes])] == [True] * 71
    assert [digest(job) for job in sweep] == [hashlib.sha256(old).hexdigest()] * 4
    again = [
        atftp.get(clients[0], "file", "multicast", "blksize 1428"),
        mget.get(clients[1], "pass", *listen(OTHER), port=1759),
        curl.get(clients[2], "file", "--tftp-blksize", "1428"),
    ]
    assert [each.data == new for each in results(again)] == [True] * 3
    assert digest(slam(clients[3], "ipxe", 9)) == hashlib.sha256(new).hexdigest()


def test_badFile(hall: Hall, castd: Castd) -> None:
    """A bad file is refused with all its lines in the log; transfers go on, and nothing of it is in force."""
    clients = hall.clients(8)
    transfers = [atftp.get(client, "file", "blksize 1428") for client in clients]
    eventually(lambda: len(castd.casts()) == 8, "everybody to be served", SECONDS)
    before = castd.settled()
    bad = castd.changed()
    bad["limits"]["casts"] = 0
    bad["transports"]["tftp"]["windows"] = 1
    said = castd.hangup(bad, "(2 of 2)")
    conf = castd.host.folder / "castd.yaml"
    lines = conf.read_text().splitlines()
    casts = next(number for number, line in enumerate(lines, 1) if line.strip() == "casts: 0")
    windows = next(number for number, line in enumerate(lines, 1) if line.strip() == "windows: 1")
    assert f"(1 of 2): {conf}:{casts}: limits.casts: 0 is not at least 1" in said
    assert f"(2 of 2): {conf}:{windows}: transports.tftp.windows: unknown key" in said
    after = castd.settled()
    bare = [each["held"]["descriptors"] - 2 * each["held"]["ports"] for each in (before, after)]
    assert bare[0] == bare[1]
    assert [each["address"] for each in after["addresses"]] == [each["address"] for each in before["addresses"]]
    castd.service["limits"]["rate"] = FAST
    castd.hangup(castd.service)
    assert curl.get(hall.clients(9)[8], "secret").result(SECONDS).data == castd.data["old"]
    assert [each.data == castd.data["old"] for each in results(transfers)] == [True] * 8


def test_often(hall: Hall, castd: Castd) -> None:
    """Ten reloads a second for ten seconds while clients come and go: no socket, no descriptor, no timer stays."""
    clients = hall.clients(8)
    castd.service["limits"]["rate"] = FAST
    epochs = [castd.changed(), castd.service]
    castd.hangup(castd.service)
    assert curl.get(clients[0], "file").result(SECONDS).data == castd.data["old"]
    before, transfers = castd.quiet(), []
    begin = time.monotonic()
    for turn in range(100):
        castd.hangup(epochs[turn % 2])
        if turn % 4 == 0:
            transfers.append(curl.get(clients[turn // 4 % 8], "file", "--tftp-blksize", "1428"))
        if turn % 20 == 10:
            transfers.append(atftp.get(clients[turn // 20], "file", "multicast", "blksize 1428"))
        time.sleep(max(0.0, begin + (turn + 1) / 10 - time.monotonic()))
    assert all(each.data in castd.data.values() for each in results(transfers))
    assert [each["address"] for each in castd.status()["addresses"] if not each["retiring"]] == [
        f"{SERVER}:{port}" for port in (69, 1759, 10000)
    ]
    assert castd.quiet() == before
