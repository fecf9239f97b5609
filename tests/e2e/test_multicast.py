"""RFC 2090 with the clients that speak it: atftp, and iPXE, which asks for groups and hears none."""

from __future__ import annotations

import signal
import time

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import eventually
from tests.support.lab.castd import TREE, Shelf, command
from tests.support.lab.clients import SERVER, Transfer, atftp
from tests.support.lab.hall import Counters, Hall, Host
from tests.support.lab.machines import dhcp, ended, ipxe, ipxeScript, mac
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

OPTIONS = ("multicast", "blksize 1428")
FRAME = (1428 + 46) / 1428
"""Octets of a full frame on the wire, for each octet of the file."""

BIG = 8 << 20
MASTERLESS = 10
"""Seconds after the death of its master until a group is done; with atftpd 25 to 33 pass before it even goes on."""


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> None:
    need("atftp")
    serve(
        multicast={"port": 69, "interface": SERVER, "groups": "239.255.32.0/24", "blksize": 1428},
        tftp={"port": 69, "interface": SERVER},
    )


def overhead(before: Counters, hall: Hall, size: int) -> float:
    """What the server has sent since, as a multiple of what one pass of the file costs on the wire."""
    return hall.hosts["server"].counters().since(before).sentOctets / (size * FRAME)


def right(transfers: list[Transfer], data: bytes, seconds: float) -> list[bool]:
    return [transfer.result(seconds).data == data for transfer in transfers]


@pytest.mark.parametrize("count", [1, 4, 16])
def test_together(hall: Hall, shelf: Shelf, count: int) -> None:
    """However many ask at once, all get the file, and little more than one copy of it is sent."""
    name = shelf.sized(BIG)
    clients = hall.clients(count)
    before = hall.hosts["server"].counters()
    transfers = atftp.getTogether(clients, name, *OPTIONS)
    assert right(transfers, shelf[name], 60) == [True] * count
    assert overhead(before, hall, BIG) < 1.10


def test_late(hall: Hall, shelf: Shelf) -> None:
    """Those who come in the middle hear the rest with the others; what they have missed costs one more pass at most."""
    name = shelf.sized(BIG)
    early, *late = hall.clients(8)
    before = hall.hosts["server"].counters()
    transfers = [atftp.get(early, name, *OPTIONS)]
    eventually(lambda: early.counters().since(before).heardOctets > 0, "the first blocks", 10)
    transfers += [atftp.get(client, name, *OPTIONS) for client in late]
    assert right(transfers, shelf[name], 60) == [True] * 8
    assert overhead(before, hall, BIG) < 2.1


def test_masterDies(hall: Hall, shelf: Shelf) -> None:
    """When the client that acknowledges is killed in the middle, the others have their file soon."""
    name = shelf.sized(BIG)
    clients = hall.clients(4)
    before = [client.counters() for client in clients]
    transfers = [atftp.get(client, name, *OPTIONS) for client in clients]

    def master() -> Transfer | None:
        """The one that has acknowledged the most, once it is sure who that is."""
        sent = [client.counters().since(then).sent for client, then in zip(clients, before, strict=True)]
        return transfers[sent.index(max(sent))] if max(sent) > 500 else None

    dead = eventually(master, "a master to acknowledge", 20, every=0.002)
    assert dead is not None
    dead.job.end(signal.SIGKILL)
    assert right([transfer for transfer in transfers if transfer is not dead], shelf[name], MASTERLESS) == [True] * 3


@pytest.mark.parametrize("percent", [1, 5])
def test_loss(hall: Hall, shelf: Shelf, percent: int) -> None:
    """Sixteen receivers of which each loses other blocks all get the file."""
    need("nft")
    name = shelf.sized(1 << 20)
    clients = hall.clients(16)
    # The requests are spared: an atftp whose own was lost asks again after five seconds, when the group is over.
    with lossy(hall, [client.name for client in clients], percent, match="@th,64,16 != 1") as loss:
        transfers = [atftp.get(client, name, *OPTIONS) for client in clients]
        assert right(transfers, shelf[name], 60) == [True] * 16
        assert loss.dropped() > 0


@pytest.mark.parametrize("count", [2, 16])
def test_nobodyHears(hall: Hall, shelf: Shelf, count: int) -> None:
    """Where no multicast gets through at all, everybody has the file by unicast, long before atftp would give up."""
    need("nft")
    name = shelf.sized(1 << 20)
    clients = hall.clients(32)[16 : 16 + count]
    with lossy(hall, [client.name for client in clients], 100, "to", "ip daddr 239.0.0.0/8") as loss:
        transfers = [atftp.get(client, name, *OPTIONS) for client in clients]
        results = [transfer.result(60) for transfer in transfers]
        assert loss.dropped() > 0
    assert [result.data == shelf[name] for result in results] == [True] * count
    assert max(result.seconds for result in results) < 15


def test_halfHearsNothing(hall: Hall, shelf: Shelf) -> None:
    """Where every second machine is behind a wall, these have the file by unicast, and the others by the group."""
    need("nft")
    name = shelf.sized(1 << 20)
    clients = hall.clients(48)[32:]
    with lossy(hall, [client.name for client in clients[1::2]], 100, "to", "ip daddr 239.0.0.0/8") as loss:
        transfers = [atftp.get(client, name, *OPTIONS) for client in clients]
        results = [transfer.result(60) for transfer in transfers]
        assert loss.dropped() > 0
    assert [result.data == shelf[name] for result in results] == [True] * 16
    assert max(result.seconds for result in results) < 15


@pytest.mark.parametrize("count", [1, 3])
def test_ipxe(hall: Hall, shelf: Shelf, count: int) -> None:
    """Machines with iPXE, which hears no group, have the file in their memory: it came by unicast."""
    need("qemu-system-x86_64", "dnsmasq", "/usr/lib/ipxe/qemu/efi-virtio.rom")
    name = shelf.sized(1 << 20)
    script = shelf.add("tftm.ipxe", ipxeScript(f"imgfetch tftm://{SERVER}/{name}"))
    numbers = range(10 * count, 11 * count)
    dhcp(hall.host(f"dhcp{count}", f"10.77.0.{10 + count}"), {mac(number): script for number in numbers})
    machines = [ipxe(hall, f"pc{number}", number) for number in numbers]
    assert ended(machines, 120) == [True] * count
    assert [machine.holds(shelf[name]) for machine in machines] == [True] * count


def test_oneAfterTheOther(hall: Hall, shelf: Shelf) -> None:
    """Sixteen that are started a tenth of a second apart share one pass: the first block waits for who is coming."""
    name = shelf.sized(BIG)
    before = hall.hosts["server"].counters()
    transfers = []
    for client in hall.clients(16):
        transfers.append(atftp.get(client, name, *OPTIONS))
        time.sleep(0.1)
    assert right(transfers, shelf[name], 60) == [True] * 16
    assert overhead(before, hall, BIG) < 1.3


def test_plainOnesBeside(hall: Hall, shelf: Shelf) -> None:
    """Clients that ask for no group are served at the same port at the same time."""
    name = shelf.sized(BIG)
    clients = hall.clients(8)
    transfers = [
        atftp.get(client, name, *(OPTIONS if number % 2 else ("blksize 1428",)))
        for number, client in enumerate(clients)
    ]
    assert right(transfers, shelf[name], 60) == [True] * 8


def test_castdGet(hall: Hall, shelf: Shelf) -> None:
    """Our own client joins the group as well: four machines, one pass, the right octets."""
    name = shelf.sized(BIG)
    clients = hall.clients(4)
    before = hall.hosts["server"].counters()
    assert got(clients, name) == [shelf[name]] * 4
    assert overhead(before, hall, BIG) < 2.1


def test_castdGetBehindAWall(hall: Hall, shelf: Shelf) -> None:
    """It has its file by unicast as well, if the group does not reach it."""
    need("nft")
    name = shelf.sized(1 << 20)
    clients = hall.clients(52)[48:]
    with lossy(hall, [client.name for client in clients], 100, "to", "ip daddr 239.0.0.0/8") as loss:
        assert got(clients, name) == [shelf[name]] * 4
        assert loss.dropped() > 0


def got(clients: list[Host], name: str) -> list[bytes]:
    """What C{castd get} has fetched on each of these machines."""
    copies = [client.folder / "copy" for client in clients]
    url = f"tftm://{SERVER}/{name}"
    jobs = [
        client.start([*command(), "get", "-o", str(copy), url], cwd=TREE)
        for client, copy in zip(clients, copies, strict=True)
    ]
    assert [job.finish(60).code for job in jobs] == [0] * len(clients), [job.text() for job in jobs]
    return [copy.read_bytes() for copy in copies]
