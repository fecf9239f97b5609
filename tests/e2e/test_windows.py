"""Windows of large blocks over a wire with jumbo frames: the sockets hold what was agreed on."""

from __future__ import annotations

import random
import sys
import time

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import TREE, Shelf, command
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall, Host, ip

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 3_000_000
#: A window that is lost in part costs the timer, 20 ms at the least, each time; without losses all takes a tenth.
SECONDS = 8.0
#: Windows that may be repeated since the machine that runs this stalls.
FEW = 4


@pytest.fixture(scope="module")
def host(hall: Hall, serve: Serve) -> Host:
    """A client; every wire carries packets of 9000 octets."""
    (client,) = hall.clients(1)
    for each in (client, hall.hosts["server"]):
        ip(netns=hall.netns, batch=[f"link set {each.name} mtu 9000"])
        ip(netns=each.netns, batch=["link set eth0 mtu 9000"])
    serve(tftp={"port": 69, "interface": SERVER, "windowsize": 256})
    return client


def transferred(host: Host, *words: str) -> tuple[str, float]:
    """Run a command of castd on the client.  -> what it printed, and how long it took."""
    program = [sys.executable, "-m", "castd"] if command()[0] == sys.executable else command()
    start = time.monotonic()
    done = host.start([*program, *words], cwd=TREE).finish(60)
    assert done.code == 0, done.text
    return done.text, time.monotonic() - start


@pytest.mark.parametrize("windowsize", [64, 256])
def test_upload(hall: Hall, host: Host, windowsize: int) -> None:
    """3 MB in blocks of 8192 and windows of 64 or 256 arrive; a busy machine repeats a few windows at the most."""
    data = random.Random(windowsize).randbytes(SIZE)
    source = host.folder / f"sent-{windowsize}"
    source.write_bytes(data)
    before = host.counters()
    options = ("--blksize", "8192", "--windowsize", str(windowsize))
    _, seconds = transferred(host, "put", *options, str(source), f"tftp://{SERVER}/create/{source.name}")
    assert (hall.folder / "create" / source.name).read_bytes() == data
    assert host.counters().since(before).sentOctets < 1.05 * SIZE + FEW * windowsize * 8192
    assert seconds < SECONDS


def test_download(host: Host, shelf: Shelf) -> None:
    """castd get asks for no larger window than its socket holds: a window of 256 blocks of 8192 arrives at once."""
    name = shelf.add("windows", random.Random(1).randbytes(SIZE))
    target = host.folder / "got"
    before = host.counters()
    _, seconds = transferred(
        host, "get", "--blksize", "8192", "--windowsize", "256", "-o", str(target), f"tftp://{SERVER}/{name}"
    )
    assert target.read_bytes() == shelf[name]
    assert host.counters().since(before).heardOctets < 1.05 * SIZE + FEW * 256 * 8192
    assert seconds < SECONDS
