"""
A hall of receivers and one multicast file: what goes out for each block of the file, beside what no repair without a
code can go below, compared cell by cell with C{tests/runs-groups.txt}.

Small here.  C{CASTD_SWARM_RECEIVERS=200 CASTD_SWARM_MB=50} in the environment, by hand, takes minutes; CI has 5 MB.
Such a table is printed, not compared.  C{CASTD_RUNS=write} writes the rows of a run into the file.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from castd.testing import Network, pattern
from tests.support.clients.multicast import ATFTP, EDK2, HEARING, UBOOT, Machine
from tests.support.stage import GroupStage

pytestmark = pytest.mark.slow

RUNS = Path(__file__).parent / "runs-groups.txt"
RECEIVERS = int(os.environ.get("CASTD_SWARM_RECEIVERS", "60"))
MB = float(os.environ.get("CASTD_SWARM_MB", "3"))
BY_HAND = (RECEIVERS, MB) != (60, 3.0)
CONTENT = pattern(int(MB * 1e6))
LOSSES = (0.0, 0.01, 0.05)
#: Seconds over which they join for 50 MB, less for less; and masters that die, one each second.
CROWDS = {"at once": (0.0, 0), "joining": (10.0, 0), "masters die": (0.0, 4), "joining, dying": (10.0, 4)}
#: All that hear and take any block size; who is served by unicast says nothing about a group.
KINDS = (ATFTP, EDK2, HEARING, UBOOT)
HEAD = """\
Sixty receivers of four kinds and a file of 3 MB on the virtual network, by independent loss each way.
A cell: blocks sent / blocks of the file (the floor: every block again until all have it, never once more; and again
for each ACK that is lost), virtual seconds until the last is done, masters.
Written by CASTD_RUNS=write; tests/test_groups_swarm.py.
"""


def floor(receivers: int, loss: float) -> float:
    """Blocks sent for each block of the file at the least; the master's lost ACKs cost their block again, too."""
    uncoded = sum(1 - (1 - loss**rounds) ** receivers for rounds in range(200))
    return uncoded + (loss / (1 - loss) if loss else 0.0)


def swarm(over: float, deaths: int, loss: float) -> str:
    """One cell: everybody who lives is done, or the cell says how many are not."""
    network = Network(5, loss, latency=0.0002, capture=False)
    chance = random.Random(7)
    spared = {1, 6}
    # Requests and first answers are spared: who has to ask again comes when all is over, which says nothing of groups.
    network.link(loss=0.0)
    if loss:
        network.losing(lambda source, to, datagram: datagram[1] not in spared and chance.random() < loss)
    with GroupStage({"f": CONTENT}, network=network, options={"gather": 0.2, "blksize": 1428}) as stage:
        machines = [
            Machine(network.host(f"10.0.0.{10 + index}"), KINDS[index % len(KINDS)], "f", stage.server, CONTENT)
            for index in range(RECEIVERS)
        ]
        for machine in machines:
            network.callLater(chance.random() * over, machine.begin)
        for death in range(deaths):
            network.callLater(0.6 + death, kill, machines)
        network.run(lambda: all(machine.over for machine in machines), limit=4000)
        seconds = network.seconds()
        left = [machine.failed for machine in machines if machine.failed]
        network.advance(200)
        stage.over()
    blocks = sum(event["blocks"] for event in stage.told("closed"))
    masters = sum(event["masters"] for event in stage.told("closed"))
    if left:
        return f"{len(left)} failed"
    ratio = blocks / (len(CONTENT) // 1428 + 1)
    return f"{ratio:.3f} ({floor(RECEIVERS, loss):.3f}) {seconds:.2f} s {masters}"


def kill(machines: list[Machine]) -> None:
    """The plug of whoever is master now is pulled."""
    for machine in machines:
        if machine.master and not machine.over:
            machine.die()
            return


def stored() -> dict[str, list[str]]:
    """The rows of the file."""
    found = {}
    for line in RUNS.read_text().splitlines() if RUNS.exists() else ():
        name, *cells = (part.strip() for part in line.split("|"))
        if cells:
            found[name] = cells
    return found


def written(rows: dict[str, list[str]]) -> str:
    lines = [f"{name:<14} | " + " | ".join(f"{cell:>30}" for cell in cells) for name, cells in rows.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def near(cell: str) -> bool:
    """Is hardly a block sent that nobody lacks?"""
    ratio, least = (float(part.strip("()")) for part in cell.split()[:2])
    return ratio <= 1.08 * least + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS)
def test_swarm(crowd: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Everybody is done, as fast as the table says and with as many blocks; late joiners cost what they missed once."""
    over, deaths = CROWDS[crowd][0] * MB / 50, CROWDS[crowd][1]
    cells = [swarm(over, deaths, loss) for loss in LOSSES]
    if BY_HAND:
        with capsys.disabled():
            sys.stdout.write(f"\n{RECEIVERS} receivers, {MB:g} MB\n{written({crowd: cells})}")
        assert not any("failed" in cell for cell in cells)
        assert over or all(map(near, cells))
        return
    rows = stored()
    if os.environ.get("CASTD_RUNS") == "write":
        rows = {"": [f"{loss:.0%}" for loss in LOSSES], **rows, crowd: cells}
        RUNS.write_text(HEAD + "\n" + written(rows))
        return
    assert rows.get(crowd) == cells


def test_nearTheFloor() -> None:
    """What the table holds is near what it could be: at once, hardly a block is sent that nobody lacks."""
    assert all(map(near, stored()["at once"]))


def test_sixteenJoiningOneAfterTheOther() -> None:
    """Sixteen that join a tenth of a second apart, without a gathering, cost far less than a file each."""
    content = pattern(4_000_000)
    network = Network(5, latency=0.0001, capture=False)
    with GroupStage({"f": content}, network=network) as stage:
        machines = [
            Machine(network.host(f"10.0.0.{10 + index}"), ATFTP, "f", stage.server, content) for index in range(16)
        ]
        for index, machine in enumerate(machines):
            network.callLater(0.1 * index, machine.begin)
        network.run(lambda: all(machine.over for machine in machines), limit=60)
        assert all(machine.done for machine in machines)
        network.advance(60)
        (closed,) = stage.told("closed")
        assert closed["blocks"] <= 4.5 * closed["count"]
