"""
Wires of the hall: at a port of its switch nftables drops datagrams, or passes them to a relay that delays or doubles
them; dumpcap captures them, tshark reads them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.support.jobs import eventually
from tests.support.lab.hall import BRIDGE, FOLDER, Hall, ip
from tests.support.needs import needed, run

#: Other losses, by hand.
SEED = os.environ.get("CASTD_SEED", "1")
#: What was drawn for so many datagrams holds for the next ones again.
PERIOD = 10_000

_tables = itertools.count(1)

HOOKS = {"from": "ingress", "to": "egress"}
"""The hook that sees what comes from a host, and what goes to it."""


def nft(hall: Hall, *words: str, rules: str = "") -> str:
    done = run("ip", "netns", "exec", hall.netns, *needed(["nft", *words]), seconds=20, input=rules)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr}\n{rules}")
    return done.stdout


class Loss:
    """
    What the rules for a wire have dropped, or passed to a relay.

    @ivar lost: datagrams, at the end of L{lossy} and the others.
    """

    lost = 0

    def __init__(self, hall: Hall, table: str) -> None:
        self.hall, self.table = hall, table

    def dropped(self) -> int:
        """Datagrams so far."""
        listed = json.loads(nft(self.hall, "-j", "list", "table", "netdev", self.table))["nftables"]
        expressions = [e for item in listed if "rule" in item for e in item["rule"]["expr"]]
        return sum(e["counter"]["packets"] for e in expressions if "counter" in e)


def lossy(
    hall: Hall, ports: Sequence[str], percent: float, ways: str = "from to", match: str = ""
) -> contextlib.AbstractContextManager[Loss]:
    """
    Drop UDP datagrams between these hosts and the switch: drawn at random beforehand, so that a run can be repeated.
    CASTD_SEED draws others.

    @param ports: names of hosts or machines.
    @param percent: of those that match; 100 drops every one.
    @param ways: C{from} the hosts, C{to} them, or both.
    @param match: an nftables expression that picks the victims: C{"@th,64,16 3"} (TFTP's DATA: the first two octets
        of the payload are 3), C{"@th,64,16 != 1"} (all but read requests), C{"udp dport 69"}.  Later fragments of a
        datagram have no ports and no payload, so they match only an empty expression.
    """
    wires = itertools.product(ways.split(), ports)
    return _dropping(hall, [(way, port, f"{match} {_drawn(way, port, percent)}") for way, port in wires])


def losing(hall: Hall, port: str, way: str, *ordinals: int, match: str = "") -> contextlib.AbstractContextManager[Loss]:
    """
    Drop these of the UDP datagrams, and no other.

    @param way: C{from} the host or C{to} it.
    @param ordinals: counted from 1, among those that match.
    @param match: as for L{lossy}.
    """
    return _dropping(hall, [(way, port, f"{match} {_numbered(ordinals)}")])


def deafening(hall: Hall, ports: Sequence[str], after: int = 0) -> contextlib.AbstractContextManager[Loss]:
    """
    Drop what goes to these hosts by multicast, as a switch does that has forgotten who has joined.

    @param after: so many octets of it still arrive at each host, frames and all.
    """
    groups = "ip daddr 224.0.0.0/4" + (f" quota over {after} bytes" if after else "")
    return _dropping(hall, [("to", port, groups) for port in ports])


def delaying(
    hall: Hall, port: str, way: str, seconds: float, *ordinals: int, match: str = ""
) -> contextlib.AbstractContextManager[Loss]:
    """
    Deliver these of the UDP datagrams so much later; all others overtake them.  Parameters as for L{losing}; without
    C{ordinals} all that match are meant.
    """
    return _relaying(hall, port, way, [seconds], f"{match} {_numbered(ordinals)}")


def doubling(
    hall: Hall, port: str, way: str, *ordinals: int, match: str = "", later: float = 0
) -> contextlib.AbstractContextManager[Loss]:
    """
    Deliver these of the UDP datagrams twice, the second time so many seconds later.  Parameters as for L{delaying}.
    """
    return _relaying(hall, port, way, [0, later], f"{match} {_numbered(ordinals)}")


def _numbered(ordinals: Sequence[int]) -> str:
    """Return an expression for the datagrams with these numbers, counted from 1; for all if there is none."""
    return _among(n - 1 for n in ordinals) if ordinals else ""


def _drawn(way: str, port: str, percent: float) -> str:
    if percent >= 100:
        return ""
    chance = random.Random(f"{SEED} {way} {port} {percent}")
    return _among(n for n in range(PERIOD) if chance.random() * 100 < percent)


def _among(indices: Iterable[int]) -> str:
    """Return an expression for those of the datagrams that come here."""
    picked = ", ".join(map(str, indices))
    # A set must not be empty; no datagram is as short as that.
    return f"numgen inc mod {PERIOD} {{ {picked} }}" if picked else "udp length < 8"


#: The mark of datagrams that come from a relay, and are not to be sent there again.
RELAYED = 7


@contextlib.contextmanager
def _relaying(hall: Hall, port: str, way: str, delays: Sequence[float], expression: str) -> Iterator[Loss]:
    """Pass the datagrams of a port that match to a relay, which delivers each after every one of these delays."""
    name = f"relay{next(_tables)}"
    ip(
        netns=hall.netns,
        batch=[
            f"link add {name} type veth peer name {name}r",
            # Without an address it says nothing of its own.
            f"link set {name} addrgenmode none up",
            f"link set {name}r addrgenmode none up",
        ],
    )
    # What comes from a host goes on where the switch sends it; what goes to a host leaves by its port.
    out = port if way == "to" else BRIDGE
    words = [sys.executable, str(FOLDER / "relay.py"), f"{name}r", out, str(RELAYED), *map(str, delays)]
    job = hall.start(words)
    job.until("relaying", 10)
    try:
        with _dropping(hall, [(way, port, f"meta mark != {RELAYED} {expression}")], f"fwd to {name}") as loss:
            yield loss
    finally:
        job.end()
        ip("link", "del", name, netns=hall.netns)


@contextlib.contextmanager
def _dropping(hall: Hall, victims: Iterable[tuple[str, str, str]], verdict: str = "drop") -> Iterator[Loss]:
    """
    @param victims: way, port and expression.
    @param verdict: what is done with them.
    """
    table = f"loss_{next(_tables)}"
    chains = [
        f'chain {HOOKS[way]}_{port} {{\n type filter hook {HOOKS[way]} device "{port}" priority 0;\n'
        f" meta l4proto udp {expression} counter {verdict}\n}}"
        for way, port, expression in victims
    ]
    nft(hall, "-f", "-", rules=f"table netdev {table} {{\n" + "\n".join(chains) + "\n}\n")
    loss = Loss(hall, table)
    try:
        yield loss
    finally:
        loss.lost = loss.dropped()
        nft(hall, "delete", "table", "netdev", table)


NEEDS = ("dumpcap", "tshark")

MARK = b"castd-e2e: the capture ends here"
MARKER = f"""
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link.sendto({MARK!r}, ("10.77.255.255", 9))
"""
"""Wires keep the order: once this datagram is in the file, so is all that was sent before it."""


class Capture:
    """The frames of one wire, complete once the L{capturing} that made it is left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, *fields: str, where: str = "udp") -> list[tuple[str, ...]]:
        """
        One row for each packet.

        @param fields: tshark's names, such as C{ip.src}, C{udp.srcport}, C{udp.payload} (hexadecimal).
        @param where: a display filter of tshark.
        """
        words = [
            "tshark",
            "-n",
            "-r",
            str(self.path),
            "-Y",
            f"({where}) && !(udp.dstport == 9)",
            "-T",
            "fields",
            "-E",
            "occurrence=f",
        ]
        words += [word for field in fields for word in ("-e", field)]
        shown = run(*words, check=True).stdout
        return [tuple(line.split("\t")) for line in shown.splitlines()]


@contextlib.contextmanager
def capturing(hall: Hall, port: str, expression: str = "udp") -> Iterator[Capture]:
    """
    Capture within the block, from its first packet to its last.

    @param port: the name of a host or machine.
    @param expression: of pcap-filter(7).
    """
    path = hall.folder / f"{port}.pcap"
    job = hall.start(["dumpcap", "-q", "-P", "-i", port, "-f", f"({expression}) or udp dst port 9", "-w", str(path)])
    job.until("File:", 10)
    try:
        yield Capture(path)
    finally:
        hall.start([sys.executable, "-c", MARKER]).finish(10)
        eventually(lambda: MARK in path.read_bytes(), "the end of the capture", 10)
        job.end(signal.SIGINT)
