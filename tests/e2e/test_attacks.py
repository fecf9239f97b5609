"""
While attackers forge what they can at a running castd, an honest client at the same switch is served, and soon.

The attacks are those that C{benchmarks/attacks.py} measures, each bounded; the limits here are wide, for busy machines.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import pytest

from benchmarks.attacks import ATTACKS, KINDS, TREE, Bench, Stand, median, requestOf
from tests.support.jobs import eventually
from tests.support.lab.forging import flood
from tests.support.lab.hall import Hall, sweep
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

#: Seconds that half of the honest clients may take; where the figures of docs/security.md allow more, so many.
SOON = 5.0
ALLOWED = {"mtftp": 15.0, "slam": 8.0}
#: These have a test of their own: test_slow_disk.py, test_unread_log.py; test_netascii.py, test_content.py and
#: test_uploads.py, as they make large files, or many.
ELSEWHERE = ("disk", "log", "netascii", "ignore-case", "keep-free")
#: Forged requests a second; half of them in the names of neighbours.
RATE = 1000
#: And of strangers alone, at which an honest client has its file within so many seconds.
STRANGERS, FIRST = 5000, 2.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The switch with its attacker and its honest client."""
    needNamespaces()
    need("ip", "bridge", "setpriv", "prlimit")
    sweep()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Hall(tmp_path_factory.mktemp("attacks")) as hall:
        yield Bench(hall, TREE)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ELSEWHERE])
def test_attack(bench: Bench, name: str) -> None:
    """Beside each of the attacks an honest client is served."""
    row = ATTACKS[name](bench)
    assert row.beside is not None, row
    assert row.beside <= max(ALLOWED.get(name, SOON), 3 * (row.alone or 0)), row


@pytest.mark.parametrize("kind", KINDS)
def test_flood(bench: Bench, kind: str) -> None:
    """While requests are forged in the names of strangers and neighbours, honest clients that ask again are served."""
    stand = Stand(bench, kind)
    try:
        with flood(bench.attacker, stand.at, RATE, [requestOf(kind, "large")], near=True):
            time.sleep(2)
            took = bench.times(stand.host, kind, stand.port)
    finally:
        stand.server.stop()
    middle = median(took)
    assert middle is not None, took
    assert middle <= ALLOWED.get(kind, SOON), took


def test_firstAnswer(bench: Bench) -> None:
    """While five thousand requests a second are forged, who was never served has all of a file within two seconds."""
    stand = Stand(bench, "tftp")
    try:
        with flood(bench.attacker, stand.at, STRANGERS, [requestOf("tftp", "large")]):
            before = bench.attacker.counters().sent
            eventually(lambda: bench.attacker.counters().sent > before + 2 * STRANGERS, "a flood", 30)
            took = bench.times(stand.host)
    finally:
        stand.server.stop()
    middle = median(took)
    assert middle is not None, took
    assert middle <= FIRST, took
