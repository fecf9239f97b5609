"""
Measures what a trouble on the wire costs: cells of one trouble and one kind of client, played in a hall of their own.

    sample = play(folder, CELLS["an ACK doubled", "atftp, window 16"])
    assert sample.whole == 1 and sample.ratio <= 1.05

C{tests/e2e/test_wire.py} plays those that fit a test, C{benchmarks/wire.py} plays all.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.jobs import Late
from tests.support.lab.castd import Server
from tests.support.lab.clients import SERVER, Client, Result, Transfer, atftp, busybox, castd, curl, hasty
from tests.support.lab.hall import Hall, Host
from tests.support.lab.wires import deafening, delaying, doubling, lossy

SIXTH, CAPPED_PORT = "fd77::1", 6969
GROUP = "239.255.32.0"
MIB = 1 << 20
#: nftables expressions: a datagram of TFTP that is an ACK; one that is no request.
ACK, REQUEST, NO_REQUEST = "@th,64,16 4", "@th,64,16 1", "@th,64,16 != 1"
#: Which of the ACKs is doubled, or late: one in the middle of the file, also for windows of 64.
WHICH = 40
WINDOWS = (2, 4, 8, 16, 32, 64)

TRANSPORTS: dict[str, dict[str, Any]] = {
    "multicast": {"port": 69, "interface": SERVER, "groups": f"{GROUP}/24", "clients": "any", "ttl": 2},
    "tftp": {"port": 69, "interface": SERVER},
    "six": {"use": "tftp", "port": 69, "interface": "::", "silence": "4 s"},
    "capped": {
        "use": "tftp",
        "port": CAPPED_PORT,
        "interface": "::",
        "caps": [{"clients": "fd78::/32", "blksize": 1228}],
    },
}

Trouble = Callable[[Hall, Sequence[Host]], contextlib.AbstractContextManager[object]]


def none(hall: Hall, hosts: Sequence[Host]) -> contextlib.AbstractContextManager[object]:
    """Do nothing to the wires."""
    return contextlib.nullcontext()


def atSwitch(count: int, hall: Hall) -> list[Host]:
    """Plug in so many hosts."""
    return hall.clients(count)


oneHost = partial(atSwitch, 1)


def behindHop(count: int, icmp: bool, hall: Hall) -> list[Host]:
    """Plug in so many hosts, the last of them behind a router whose next hop has an MTU of 1400."""
    return [*hall.clients(count - 1), hall.beyond("far", 1400, icmp, [GROUP])]


@dataclass(frozen=True)
class Cell:
    """
    Clients that fetch one file at once, and a trouble.

    @ivar get: the client program, the words of its options, and where it asks.
    @ivar size: octets of the file.
    @ivar hosts: plugs the hosts in.
    @ivar trouble: begins when the server listens, before the clients start.
    @ivar deaf: so many of the hosts, the last ones, are those with the trouble; the others are told apart.
    @ivar deafFirst: those ask a moment before the others.
    @ivar patience: seconds that the clients have.
    """

    client: Client
    options: tuple[str, ...] = ()
    server: str = SERVER
    port: int = 69
    size: int = 8 * MIB
    hosts: Callable[[Hall], list[Host]] = oneHost
    trouble: Trouble = none
    deaf: int = 0
    deafFirst: bool = False
    patience: float = 60.0

    def get(self, host: Host) -> Transfer:
        """Start the client of a host."""
        return self.client.get(host, "file", *self.options, server=self.server, port=self.port)


@dataclass
class Sample:
    """
    What a cell has cost.

    @ivar clients: how many there were; C{whole}: how many of them have the right file.
    @ivar ratio: octets at the server's interface, frames and all, for each octet of the file.
    @ivar seconds: until the last one was done; C{hearing}: the last of those without the trouble.  Those that were not
        done in time count with all of it.
    @ivar log: what castd has logged; C{said}: what the clients have said.
    """

    clients: int
    whole: int
    ratio: float
    seconds: float
    hearing: float
    log: str = field(repr=False)
    said: list[str] = field(repr=False)


def play(folder: Path, cell: Cell) -> Sample:
    """Build a hall, let the clients fetch the file, and take the hall down."""
    folder.mkdir(exist_ok=True)
    shelf = folder / "shelf"
    shelf.mkdir()
    data = random.Random(cell.size).randbytes(cell.size)
    (shelf / "file").write_bytes(data)
    with Hall(folder) as hall:
        host = hall.host("server", SERVER, SIXTH)
        hosts = cell.hosts(hall)
        service = {
            "castd": 1,
            "content": [{"directory": {"path": str(shelf)}}],
            "access": [{"allow": "any"}],
            "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": "1 s"},
            "transports": TRANSPORTS,
        }
        server = Server(host, service)
        for each in hosts if cell.server == SIXTH else ():
            each.reach(SIXTH)
        with cell.trouble(hall, hosts[len(hosts) - cell.deaf :]):
            before = host.counters()
            results = _fetched(cell, hosts)
            sent = host.counters().since(before).sentOctets
        server.stop()
        log = server.log()
    hearing = results[: len(hosts) - cell.deaf]
    return Sample(
        len(hosts),
        sum(result.data == data for result in results),
        sent / cell.size,
        max(result.seconds for result in results),
        max((result.seconds for result in hearing), default=0.0),
        log,
        [result.text for result in results],
    )


def _fetched(cell: Cell, hosts: Sequence[Host]) -> list[Result]:
    """Start all clients, and wait for those without the trouble first."""
    split = len(hosts) - cell.deaf
    order = [*hosts[split:], *hosts[:split]] if cell.deafFirst else list(hosts)
    transfers: dict[str, Transfer] = {}
    for number, host in enumerate(order):
        if cell.deafFirst and number == cell.deaf:
            time.sleep(0.05)
        transfers[host.name] = cell.get(host)
    end = time.monotonic() + cell.patience
    return [_result(transfers[host.name], end, cell.patience) for host in hosts]


def _result(transfer: Transfer, end: float, patience: float) -> Result:
    try:
        return transfer.result(max(0.1, end - time.monotonic()))
    except Late as late:
        return Result(-1, str(late), None, patience)


def windowed(client: Client, window: int, blksize: int = 1468) -> tuple[str, ...]:
    """Return the words of a client for a window and a block size; a window of 1 is not asked for."""
    if client is castd:
        return ("--blksize", str(blksize), "--windowsize", str(window))
    return (f"blksize {blksize}", *([f"windowsize {window}"] if window > 1 else []))


def group(hearing: int, deaf: int, after: int = 2 * MIB, **more: Any) -> Cell:
    """Return a cell of atftps in one group, some of whose ports drop multicast after so many octets of it."""

    def trouble(hall: Hall, hosts: Sequence[Host]) -> contextlib.AbstractContextManager[object]:
        return deafening(hall, [host.name for host in hosts], after) if hosts else contextlib.nullcontext()

    return Cell(
        atftp,
        ("blksize 1428", "multicast"),
        hosts=partial(atSwitch, hearing + deaf),
        trouble=trouble,
        deaf=deaf,
        **more,
    )


#: The words of clients for blocks of 1468 octets, one at a time.
OF_1468 = {
    atftp: windowed(atftp, 1),
    busybox: ("-b1468",),
    castd: windowed(castd, 1),
    curl: ("--tftp-blksize", "1468"),
}


def _named(program: Client) -> str:
    return "castd get" if program is castd else program.program[0]


def _lossy(percent: float, hall: Hall, hosts: Sequence[Host]) -> contextlib.AbstractContextManager[object]:
    return lossy(hall, [host.name for host in hall.hosts.values() if host.name != "server"], percent, match=NO_REQUEST)


def _doubled(ordinals: Sequence[int], hall: Hall, hosts: object) -> contextlib.AbstractContextManager[object]:
    return doubling(hall, "c1", "from", *ordinals, match=ACK)


def _askedTwice(later: float, hall: Hall, hosts: object) -> contextlib.AbstractContextManager[object]:
    return doubling(hall, "c1", "from", match=REQUEST, later=later)


def _late(seconds: float, hall: Hall, hosts: object) -> contextlib.AbstractContextManager[object]:
    return delaying(hall, "c1", "from", seconds, WHICH, match=ACK)


def _cells() -> Iterable[tuple[str, str, Cell]]:
    """Return cause, name and cell of all that there are."""
    for client in (atftp, castd):
        for window in WINDOWS:
            name, options = f"{_named(client)}, window {window}", windowed(client, window)
            yield "none", name, Cell(client, options)
            yield "an ACK doubled", name, Cell(client, options, trouble=partial(_doubled, (WHICH,)))
            yield "every ACK doubled", name, Cell(client, options, trouble=partial(_doubled, ()))
            yield "an ACK 30 ms late", name, Cell(client, options, trouble=partial(_late, 0.03))
    for client, options in OF_1468.items():
        cell = Cell(client, options, trouble=partial(_askedTwice, 0.03))
        yield "the request once more after 30 ms", _named(client), cell
    for percent in (1, 5):
        for window in (1, 16):
            cell = Cell(hasty, windowed(hasty, window), size=MIB, trouble=partial(_lossy, percent), patience=120)
            yield f"{percent} % lost", f"atftp, window {window}", cell
        options = windowed(castd, 16)
        yield f"{percent} % lost", "castd get, window 16", Cell(castd, options, trouble=partial(_lossy, percent))
    yield "16 at once", "atftp, window 16", Cell(atftp, windowed(atftp, 16), size=2 * MIB, hosts=partial(atSwitch, 16))
    yield from _hops()
    for deaf in (0, 4, 5, 8, 16):
        yield "ports go deaf", f"{deaf} of 16", group(16 - deaf, deaf, patience=120)
    yield "deaf from the start", "2 of 16, which ask first", group(14, 2, 0, deafFirst=True, patience=120)


def _hops() -> Iterable[tuple[str, str, Cell]]:
    for icmp in (False, True):
        cause = f"a hop of 1400, ICMP {'arrives' if icmp else 'dropped'}"
        far = partial(behindHop, 1, icmp)
        for client in (atftp, castd):
            for window in (1, 16):
                name, options = f"{_named(client)}, window {window}", windowed(client, window)
                yield cause, f"IPv4, {name}", Cell(client, options, hosts=far)
        six = partial(Cell, castd, server=SIXTH, hosts=far, patience=20)
        yield cause, "IPv6", six(windowed(castd, 16, 1448))
        yield cause, "IPv6, capped", six(windowed(castd, 16, 1448), port=CAPPED_PORT)
        yield cause, "IPv4, a group of 4", Cell(atftp, group(0, 0).options, hosts=partial(behindHop, 4, icmp))


#: All cells, by cause and name.
CELLS = {(cause, name): cell for cause, name, cell in _cells()}
