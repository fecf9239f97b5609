"""Windows of large blocks over a wire with jumbo frames: the sockets hold what was agreed on."""

from __future__ import annotations

import random
import sys

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import TREE, Shelf, command
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall, Host, ip

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 3_000_000
#: Windows of datagrams that a full socket may drop: a machine that stalls repeats a window before it reads the first.
#: A socket that does not hold a window drops most of each.
FEW = 2


@pytest.fixture(scope="module")
def host(hall: Hall, serve: Serve) -> Host:
    """A client; every wire carries packets of 9000 octets."""
    (client,) = hall.clients(1)
    for each in (client, hall.hosts["server"]):
        ip(netns=hall.netns, batch=[f"link set {each.name} mtu 9000"])
        ip(netns=each.netns, batch=["link set eth0 mtu 9000"])
    serve(tftp={"port": 69, "interface": SERVER, "windowsize": 256})
    return client


def dropped(host: Host) -> int:
    """Return how many datagrams full sockets on this machine have dropped since it was plugged in."""
    names, values = (
        line.split()[1:] for line in host.run(["cat", "/proc/net/snmp"]).text.splitlines() if line.startswith("Udp:")
    )
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


def transfer(host: Host, *words: str) -> None:
    """Run a command of castd on this machine, which must end well within 30 s."""
    program = [sys.executable, "-m", "castd"] if command()[0] == sys.executable else command()
    done = host.start([*program, *words], cwd=TREE).finish(30)
    assert done.code == 0, done.text


@pytest.mark.parametrize("windowsize", [64, 256])
def test_upload(hall: Hall, host: Host, windowsize: int) -> None:
    """3 MB in blocks of 8192 and windows of 64 or 256 arrive, and castd's socket holds each window."""
    data = random.Random(windowsize).randbytes(SIZE)
    source = host.folder / f"sent-{windowsize}"
    source.write_bytes(data)
    server = hall.hosts["server"]
    before = dropped(server)
    options = ("--blksize", "8192", "--windowsize", str(windowsize))
    transfer(host, "put", *options, str(source), f"tftp://{SERVER}/create/{source.name}")
    assert (hall.folder / "create" / source.name).read_bytes() == data
    assert dropped(server) - before <= FEW * windowsize


def test_download(host: Host, shelf: Shelf) -> None:
    """A window of 256 blocks of 8192 is one that the socket of castd get holds."""
    name = shelf.add("windows", random.Random(1).randbytes(SIZE))
    target = host.folder / "got"
    before = dropped(host)
    transfer(host, "get", "--blksize", "8192", "--windowsize", "256", "-o", str(target), f"tftp://{SERVER}/{name}")
    assert target.read_bytes() == shelf[name]
    assert dropped(host) - before <= FEW * 256
