"""Lossy wires: nftables on a host's port of the switch drops datagrams as drawn, those of one kind, or one alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
from collections.abc import Iterable, Iterator, Sequence

from tests.support.lab.hall import Hall

#: Other losses, by hand.
SEED = os.environ.get("CASTD_SEED", "1")
#: What was drawn for so many datagrams holds for the next ones again.
PERIOD = 10_000

_tables = itertools.count(1)

HOOKS = {"from": "ingress", "to": "egress"}
"""The hook that sees what comes from a host, and what goes to it."""


def nft(hall: Hall, *words: str, rules: str = "") -> str:
    argv = ["ip", "netns", "exec", hall.netns, "nft", *words]
    done = subprocess.run(argv, check=False, input=rules, text=True, capture_output=True, timeout=20)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr}\n{rules}")
    return done.stdout


class Loss:
    """
    What one lossy wire has dropped.

    @ivar lost: datagrams, at the end of L{lossy}.
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


def losing(hall: Hall, port: str, way: str, *ordinals: int) -> contextlib.AbstractContextManager[Loss]:
    """
    Drop these of the UDP datagrams, and no other.

    @param way: C{from} the host or C{to} it.
    @param ordinals: counted from 1.
    """
    return _dropping(hall, [(way, port, _among(n - 1 for n in ordinals))])


def _drawn(way: str, port: str, percent: float) -> str:
    if percent >= 100:
        return ""
    chance = random.Random(f"{SEED} {way} {port} {percent}")
    return _among(n for n in range(PERIOD) if chance.random() * 100 < percent)


def _among(indices: Iterable[int]) -> str:
    """-> an expression for those of the datagrams that come here."""
    picked = ", ".join(map(str, indices))
    # A set must not be empty; no datagram is as short as that.
    return f"numgen inc mod {PERIOD} {{ {picked} }}" if picked else "udp length < 8"


@contextlib.contextmanager
def _dropping(hall: Hall, victims: Iterable[tuple[str, str, str]]) -> Iterator[Loss]:
    """
    @param victims: way, port and expression.
    """
    table = f"loss_{next(_tables)}"
    chains = [
        f"chain {HOOKS[way]}_{port} {{\n type filter hook {HOOKS[way]} device {port} priority 0;\n"
        f" meta l4proto udp {expression} counter drop\n}}"
        for way, port, expression in victims
    ]
    nft(hall, "-f", "-", rules=f"table netdev {table} {{\n" + "\n".join(chains) + "\n}\n")
    loss = Loss(hall, table)
    try:
        yield loss
    finally:
        loss.lost = loss.dropped()
        nft(hall, "delete", "table", "netdev", table)
