"""
The server's interface goes and comes back, in the middle of transfers: by its link, by its address alone, or as another
one of the same name.
"""

from __future__ import annotations

import hashlib
import sys
import time

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import Job, eventually
from tests.support.lab.castd import TREE, Server, Shelf
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall, Host, ip

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 3 << 20
SECONDS = 60.0
#: How long it is gone.
OUTAGE = 1.5
GROUPS = ("239.255.1.1", "239.255.1.2")


@pytest.fixture(scope="module")
def castd(serve: Serve, shelf: Shelf) -> Server:
    name = shelf.sized(SIZE)
    return serve(
        multicast={"port": 69, "rate": "1 MB/s", "groups": "239.255.32.0/24"},
        tftp={"port": 69, "rate": "1 MB/s"},
        mtftp={"port": 1759, "rate": "1 MB/s", "files": {name: f"{GROUPS[0]}:3001"}},
        slam={"port": 10000, "rate": "1 MB/s", "file": name, "group": f"{GROUPS[1]}:10000"},
    )


def get(host: Host, scheme: str, name: str) -> Job:
    """castd's own client begins."""
    path = {
        "tftp": f":69/{name}",
        "tftm": f":69/{name}",
        "mtftp": f":1759/{name};group={GROUPS[0]}:3001",
        "slam": f":10000/{GROUPS[1]}:10000",
    }[scheme]
    words = [
        sys.executable,
        "-m",
        "castd",
        "get",
        f"{scheme}://{SERVER}{path}",
        "-o",
        str(host.folder / "x"),
    ]
    return host.start(words, cwd=TREE)


def outage(hall: Hall, kind: str) -> None:
    """Take the server off the net for a while."""
    netns = hall.hosts["server"].netns
    if kind == "link":
        ip(netns=netns, batch=["link set eth0 down"])
        time.sleep(OUTAGE)
        ip(netns=netns, batch=["link set eth0 up"])
        hall.forwarding("server")
    elif kind == "interface":
        hall.unplug("server")
        time.sleep(OUTAGE)
        hall.plugAnew("server")
    else:
        ip(netns=netns, batch=[f"addr del {SERVER}/16 dev eth0"])
        time.sleep(OUTAGE)
        ip(netns=netns, batch=[f"addr add {SERVER}/16 dev eth0"])
    ip("route", "replace", "default", "dev", "eth0", netns=netns)


@pytest.mark.parametrize("scheme", ["tftp", "tftm", "mtftp", "slam"])
@pytest.mark.parametrize("kind", ["link", "address", "interface"])
def test_comesBack(hall: Hall, shelf: Shelf, castd: Server, kind: str, scheme: str) -> None:
    """Who is served in the meantime has the file in the end, and who asks afterwards is served as before."""
    name = shelf.sized(SIZE)
    wanted = hashlib.sha256(shelf[name]).hexdigest()
    hosts = hall.clients(2)
    before, since = hall.counters("server"), len(castd.log())
    jobs = [get(host, scheme, name) for host in hosts]
    eventually(lambda: hall.counters("server").since(before).sentOctets > SIZE // 10, "the transfer", SECONDS)
    outage(hall, kind)
    for host, job in zip(hosts, jobs, strict=True):
        done = job.finish(SECONDS)
        assert done.code == 0, f"{done.text}\n{castd.log()[since:]}"
        assert hashlib.sha256((host.folder / "x").read_bytes()).hexdigest() == wanted
    later = get(hosts[0], scheme, name).finish(SECONDS)
    assert later.code == 0, later.text
    told = [line for line in castd.log()[since:].splitlines() if "cannot" in line]
    assert len(told) < 20, "\n".join(told)
