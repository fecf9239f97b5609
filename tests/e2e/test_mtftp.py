"""PXE's MTFTP with the clients that speak it: iPXE and atftp."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import Late
from tests.support.lab import wires
from tests.support.lab.castd import TREE, Shelf, command
from tests.support.lab.clients import SERVER, Result, Transfer, atftp, mget
from tests.support.lab.hall import Hall, Host
from tests.support.lab.machines import END, Machine, dhcp, ended, ipxe, ipxeScript, mac
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

GROUP, HEARD = "239.255.1.1", 3001
"""Where iPXE listens, always."""

PORT = 1759
SIZE = int(os.environ.get("CASTD_E2E_SIZE", "262151"))
"""Octets of the file that iPXE fetches; a megabyte and more by hand."""

LISTEN = (f"mcast-ip {GROUP}", f"client-port {HEARD}")

SMALL, SMALL_GROUP = (1 << 17) + 7, "239.255.1.2:3002"
SMALL_LISTEN = ("mcast-ip 239.255.1.2", "client-port 3002")
"""A file for lossy wires."""

MEBIBYTE, MEBIBYTE_GROUP = 1 << 20, "239.255.1.3:3003"
MEBIBYTE_LISTEN = ("mcast-ip 239.255.1.3", "client-port 3003")
"""A file for wires that lose so much that its time says how quickly losses are mended."""

RUNS = int(os.environ.get("CASTD_E2E_RUNS", "4"))
"""How often each machine fetches the file; ten and more by hand."""

FOURS = int(os.environ.get("CASTD_E2E_FOURS", "1"))
"""How often four atftp fetch a file at 5 % loss; five times by hand."""

REQUEST, NO_REQUEST, DATA = "@th,64,16 1", "@th,64,16 != 1", "@th,64,16 3"


@pytest.fixture(scope="module")
def name(hall: Hall, serve: Serve, shelf: Shelf) -> str:
    """The one file that iPXE can have; the others are for atftp."""
    name = shelf.sized(SIZE)
    files = {name: f"{GROUP}:{HEARD}", shelf.sized(SMALL): SMALL_GROUP, shelf.sized(MEBIBYTE): MEBIBYTE_GROUP}
    serve(
        mtftp={"port": PORT, "interface": SERVER, "files": files},
        tftp={"port": 69, "interface": SERVER},
    )
    return name


def say(text: str) -> None:
    """A figure worth knowing, for who runs this with C{-s}."""
    sys.stdout.write(f"{text}\n")


def small(clients: Sequence[Host], shelf: Shelf) -> list[Transfer]:
    """All of them ask for the smaller file."""
    return [mget.get(client, shelf.sized(SMALL), *SMALL_LISTEN, port=PORT) for client in clients]


def results(transfers: Sequence[Transfer], seconds: float = 100) -> list[Result | None]:
    """What came of each; L{None}: it would have waited for ever."""
    found: list[Result | None] = []
    for transfer in transfers:
        try:
            found.append(transfer.result(seconds))
        except Late:
            found.append(None)
    return found


@pytest.mark.parametrize("count", [1, 4, 16])
def test_atftp(hall: Hall, shelf: Shelf, name: str, count: int) -> None:
    """However many ask at once, all get the file, and it is sent little more than once."""
    need("atftp")
    clients = hall.clients(count)
    before = hall.hosts["server"].counters()
    transfers = mget.getTogether(clients, name, *LISTEN, port=PORT)
    assert [transfer.result(60).data == shelf[name] for transfer in transfers] == [True] * count
    frames = hall.hosts["server"].counters().since(before).sent
    assert frames < 1.1 * (SIZE // 512 + 1) + 20


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize("count", [1, 4, 16])
def test_loss(hall: Hall, shelf: Shelf, count: int) -> None:
    """
    With one datagram in a hundred lost, everybody has the file whose own request was not among them.

    atftp repeats no acknowledgement, which a server can mend, and its request to port 0, which none can.
    """
    need("atftp", "nft")
    clients = hall.clients(count)
    with contextlib.ExitStack() as life:
        wires = life.enter_context(lossy(hall, [client.name for client in clients], 1, match=NO_REQUEST))
        asking = [life.enter_context(lossy(hall, [client.name], 1, "from", REQUEST)) for client in clients]
        found = results(small(clients, shelf))
        assert wires.dropped() > 0
        died = [client.name for client, loss in zip(clients, asking, strict=True) if loss.dropped()]
    data = shelf[shelf.sized(SMALL)]
    failed = [client.name for client, result in zip(clients, found, strict=True) if not result or result.data != data]
    seconds = max(result.seconds for result in found if result is not None)
    say(f"{count} atftp at 1 %: {seconds:.1f} s, died of their own request: {failed}")
    assert set(failed) <= set(died), [result and result.text[-500:] for result in found]


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize("others", [0, 3])
def test_lostRequest(hall: Hall, shelf: Shelf, others: int) -> None:
    """An atftp that loses its request dies of it if it is alone; else it hears what the others asked for."""
    need("atftp", "nft")
    clients = hall.clients(1 + others)
    with lossy(hall, [clients[0].name], 100, "from", REQUEST) as loss:
        found = results(small(clients, shelf), 40)
        assert loss.dropped() > 0 or others
    data = shelf[shelf.sized(SMALL)]
    right = [result is not None and result.data == data for result in found]
    assert right == [others > 0] + [True] * others


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize(("count", "limit"), [(1, 60), (4, 120)])
def test_muchLoss(hall: Hall, shelf: Shelf, count: int, limit: float) -> None:
    """
    At 5 % loss on each wire, the requests spared, a mebibyte is with one atftp in a minute and with four in two.

    Most of the time went by waiting for ACKs that atftp does not repeat.
    """
    need("atftp", "nft")
    clients = hall.clients(count)
    with lossy(hall, [client.name for client in clients], 5, match=NO_REQUEST) as loss:
        found = results([mget.get(each, shelf.sized(MEBIBYTE), *MEBIBYTE_LISTEN, port=PORT) for each in clients], 150)
        assert loss.dropped() > 0
    data = shelf[shelf.sized(MEBIBYTE)]
    failed = [result and result.text[-500:] for result in found if result is None or result.data != data]
    assert failed == []
    seconds = max(result.seconds for result in found if result is not None)
    say(f"{count} atftp at 5 %: {seconds:.1f} s")
    assert seconds <= limit


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize("seed", range(1, 1 + FOURS))
def test_noHole(hall: Hall, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """In downloads at 5 % loss, four at a time, each image is the file, octet for octet."""
    need("atftp", "nft")
    monkeypatch.setattr(wires, "SEED", f"mtftp {seed}")
    clients = hall.clients(4)
    with lossy(hall, [client.name for client in clients], 5, match=NO_REQUEST) as loss:
        found = results(small(clients, shelf))
        assert loss.dropped() > 0
    assert [result is not None and result.data == shelf[shelf.sized(SMALL)] for result in found] == [True] * 4


@pytest.mark.usefixtures("name")
def test_together(hall: Hall, shelf: Shelf) -> None:
    """castd's own client and atftp share a pass, beside plain TFTP and another pass; all have their files."""
    need("atftp")
    clients = hall.clients(12)
    url = f"mtftp://{SERVER}/{shelf.sized(SIZE)}"
    own = [
        client.start([*command(), "get", "-q", "-o", str(client.folder / "own"), url], cwd=TREE)
        for client in clients[:3]
    ]
    wide = [mget.get(client, shelf.sized(SIZE), *LISTEN, port=PORT) for client in clients[3:6]]
    other = small(clients[6:9], shelf)
    plain = [atftp.get(client, shelf.sized(SIZE), "blksize 1428", "windowsize 16") for client in clients[9:]]
    assert [job.finish(60).code for job in own] == [0] * 3
    assert all((client.folder / "own").read_bytes() == shelf[shelf.sized(SIZE)] for client in clients[:3])
    assert all(each.result(60).data == shelf[shelf.sized(SIZE)] for each in (*wide, *plain))
    assert all(each.result(60).data == shelf[shelf.sized(SMALL)] for each in other)


def boot(hall: Hall, shelf: Shelf, name: str, numbers: Sequence[int], percent: float = 0) -> list[Machine]:
    """
    These machines fetch the file again and again, under a new name each time, whatever comes of it.

    @param percent: of the DATA on their wires that is lost.
    @return: the machines, in the last line of their scripts.
    """
    need("qemu-system-x86_64", "dnsmasq", "nft", "/usr/lib/ipxe/qemu/efi-virtio.rom")
    lines = [
        f"imgfetch --name copy{run} mtftp://{SERVER}/{name} && echo good {run} || echo bad {run}" for run in range(RUNS)
    ]
    script = shelf.add(f"mtftp-{numbers[0]}.ipxe", ipxeScript(*lines))
    server = dhcp(hall.host(f"dhcp{numbers[0]}", f"10.77.0.{numbers[0]}"), {mac(number): script for number in numbers})
    machines = [ipxe(hall, f"pc{number}", number) for number in numbers]
    with contextlib.ExitStack() as life:
        if percent:
            loss = life.enter_context(lossy(hall, [machine.name for machine in machines], percent, "to", DATA))
        assert ended(machines, 60 + 25 * RUNS) == [True] * len(machines)
        assert not percent or loss.dropped() > 0
    server.end()
    return machines


def told(machine: Machine, word: str) -> int:
    """How often its script said so."""
    return len(re.findall(rf"^{word} \d+\s*$", machine.console().split(END)[0], re.MULTILINE))


@pytest.mark.parametrize("count", [1, 3])
def test_ipxe(hall: Hall, shelf: Shelf, name: str, count: int) -> None:
    """One machine, and three, fetch the file several times, and all copies are in their memory, octet for octet."""
    machines = boot(hall, shelf, name, range(10 * count, 11 * count))
    for machine in machines:
        assert (told(machine, "good"), told(machine, "bad")) == (RUNS, 0), machine.console()
        assert machine.memory().count(shelf[name]) == RUNS


def test_ipxeLoss(hall: Hall, shelf: Shelf, name: str) -> None:
    """With five in a hundred DATA lost a machine may fail to fetch the file, and says so; a wrong one it never has."""
    machines = boot(hall, shelf, name, range(50, 53), 5)
    for machine in machines:
        good = told(machine, "good")
        say(f"{machine.name}: {good} of {RUNS} fetched")
        assert good + told(machine, "bad") == RUNS, machine.console()
        assert machine.memory().count(shelf[name]) == good
