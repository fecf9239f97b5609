"""
Troubles of the wire but for plain loss, with real clients: each gets the file, soon, and for hardly more octets.

C{benchmarks/wire.py} plays these cells and many more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.lab.cells import CELLS, MIB, Cell, group, play
from tests.support.lab.hall import sweep
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DROPPED, ARRIVES = "a hop of 1400, ICMP dropped", "a hop of 1400, ICMP arrives"
SOON = 30.0
"""Seconds, on a busy machine: a transfer that waits for a timer again and again takes minutes."""


@pytest.fixture(scope="module", autouse=True)
def lab() -> None:
    needNamespaces()
    need("nft", "atftp")
    sweep()


def cheap(folder: Path, cell: Cell, ratio: float = 1.05) -> None:
    """Play a cell: every client gets the file, soon, and for hardly more octets than a single copy has."""
    sample = play(folder, cell)
    assert sample.whole == sample.clients, (sample.said, sample.log)
    assert sample.ratio <= ratio
    assert sample.seconds < SOON


@pytest.mark.parametrize("name", ["IPv4, atftp, window 1", "IPv4, castd get, window 16", "IPv4, a group of 4"])
def test_smallHop(tmp_path: Path, name: str) -> None:
    """Blocks above the MTU of a hop arrive in fragments, alone and in a group, although nobody tells the server."""
    cheap(tmp_path, CELLS[DROPPED, name])


def test_smallHopBySix(tmp_path: Path) -> None:
    """By IPv6 the server sends fragments as soon as it was told: two headers for each block."""
    cheap(tmp_path, CELLS[ARRIVES, "IPv6"], 1.12)


def test_smallHopBySixCapped(tmp_path: Path) -> None:
    """Where nobody tells it a cap for that network helps."""
    cheap(tmp_path, CELLS[DROPPED, "IPv6, capped"], 1.07)


def test_smallHopIsTold(tmp_path: Path) -> None:
    """Where nobody tells the server, and there is no cap, the log has the reason and the cure."""
    sample = play(tmp_path, replace(CELLS[DROPPED, "IPv6"], patience=10))
    assert sample.whole == 0
    assert "answers small datagrams, but not the first block, of 1448 octets" in sample.log
    assert "caps: [{clients: fd78:0:0:2::2, blksize: 1228}]" in sample.log


@pytest.mark.parametrize("cause", ["an ACK doubled", "an ACK 30 ms late"])
@pytest.mark.parametrize(("name", "ratio"), [("atftp, window 16", 1.05), ("castd get, window 16", 1.3)])
def test_oneAck(tmp_path: Path, cause: str, name: str, ratio: float) -> None:
    """
    An ACK that comes twice, or 30 ms late, costs a window at the most, not one for each that follows.

    castd's own client is slower: on a busy machine it answers late by itself now and then.
    """
    cheap(tmp_path, CELLS[cause, name], ratio)


@pytest.mark.parametrize("name", ["atftp", "busybox", "castd get", "curl"])
def test_theRequestOnceMore(tmp_path: Path, name: str) -> None:
    """A request that the network delivers once more in the middle of the transfer ends nothing, and begins nothing."""
    need(name.split(maxsplit=1)[0] if name != "castd get" else "nft")
    sample = play(tmp_path, CELLS["the request once more after 30 ms", name])
    assert sample.whole == 1, (sample.said, sample.log)
    assert sample.ratio <= 1.1
    assert "restarted" not in sample.log


@pytest.mark.parametrize("deaf", [4, 8])
def test_portsGoDeaf(tmp_path: Path, deaf: int) -> None:
    """
    Members whose ports drop the group from the first MiB of four on get the file all the same; those who hear it do not
    wait for them.
    """
    size = 4 * MIB
    alone = play(tmp_path / "alone", group(8, 0, size=size))
    sample = play(tmp_path / "deaf", group(8 - deaf, deaf, MIB, size=size))
    assert sample.whole == 8, (sample.said, sample.log)
    # One copy for those who hear, one for each who does not, and some repetitions.
    assert sample.ratio <= 1.05 * (1 + deaf) + 0.2
    assert sample.hearing <= alone.seconds + 4
    assert sample.seconds < SOON
