"""Lossy wires: nftables on a host's port of the switch drops datagrams at random, or those of one kind."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterator, Sequence

from tests.e2e.hall import Hall

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


@contextlib.contextmanager
def lossy(hall: Hall, ports: Sequence[str], percent: float, ways: str = "from to", match: str = "") -> Iterator[Loss]:
    """
    Drop UDP datagrams between these hosts and the switch.

    @param ports: names of hosts or machines.
    @param percent: of those that match, at random; 100 drops every one.
    @param ways: C{from} the hosts, C{to} them, or both.
    @param match: an nftables expression that picks the victims: C{"@th,64,16 3"} (TFTP's DATA: the first two octets
        of the payload are 3), C{"@th,64,16 != 1"} (all but read requests), C{"udp dport 69"}.  Later fragments of a
        datagram have no ports and no payload, so they match only an empty expression.
    """
    table = f"loss_{next(_tables)}"
    draw = "" if percent >= 100 else f"numgen random mod 100000 < {round(percent * 1000)}"
    chains = [
        f"chain {HOOKS[way]}_{port} {{\n type filter hook {HOOKS[way]} device {port} priority 0;\n"
        f" meta l4proto udp {match} {draw} counter drop\n}}"
        for way in ways.split()
        for port in ports
    ]
    nft(hall, "-f", "-", rules=f"table netdev {table} {{\n" + "\n".join(chains) + "\n}\n")
    loss = Loss(hall, table)
    try:
        yield loss
    finally:
        loss.lost = loss.dropped()
        nft(hall, "delete", "table", "netdev", table)
