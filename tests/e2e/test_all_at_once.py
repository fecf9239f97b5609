"""One castd, one process, every transport that has a client busy at the same time."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

from tests.e2e.conftest import Serve
from tests.e2e.test_slam import CLIENT
from tests.support.jobs import Job
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, atftp, curl, mget
from tests.support.lab.hall import Hall, Host
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 1 << 20
SECONDS = 90.0
GROUP, HEARD, SLAM = "239.255.1.1", 3001, 10000


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve, shelf: Shelf) -> None:
    name = shelf.sized(SIZE)
    serve(
        multicast={"port": 69, "interface": SERVER, "groups": "239.255.32.0/24"},
        tftp={"port": 69, "interface": SERVER},
        mtftp={"port": 1759, "interface": SERVER, "files": {name: f"{GROUP}:{HEARD}"}},
        slam={"port": SLAM, "interface": SERVER, "file": name, "group": f"{GROUP}:{SLAM}"},
    )


def slam(host: Host, kind: str) -> Job:
    """An independent SLAM client begins."""
    words = [sys.executable, str(CLIENT), "--kind", kind, "--server", f"{SERVER}:{SLAM}"]
    more = ["--group", f"{GROUP}:{SLAM}", "--interface", host.addresses[0], "--limit", str(SECONDS)]
    return host.start([*words, *more])


@pytest.mark.parametrize("percent", [0, 1])
def test_nobodyIsDisturbed(hall: Hall, shelf: Shelf, percent: int) -> None:
    """RFC 2090, MTFTP, SLAM and plain TFTP, three machines each and all at once: everybody has the file, whole."""
    need("atftp", "curl", "nft")
    name = shelf.sized(SIZE)
    data, clients = shelf[name], hall.clients(12)
    # Lost requests of atftp are its own end (it repeats them to port 0); only what castd can mend is lost here.
    with lossy(hall, [host.name for host in clients], percent, "to", "@th,64,16 3"):
        groups = [atftp.get(host, name, "multicast", "blksize 1428") for host in clients[:3]]
        passes = [mget.get(host, name, f"mcast-ip {GROUP}", f"client-port {HEARD}", port=1759) for host in clients[3:6]]
        lists = [slam(host, kind) for host, kind in zip(clients[6:9], ("ipxe", "etherboot", "ipxe"), strict=True)]
        plain = [curl.get(host, name, "--tftp-blksize", "1428") for host in clients[9:]]
        assert [each.result(SECONDS).data == data for each in (*groups, *passes, *plain)] == [True] * 9
        digests = [json.loads(job.finish(SECONDS).text.splitlines()[-1])["sha256"] for job in lists]
    assert digests == [hashlib.sha256(data).hexdigest()] * 3
