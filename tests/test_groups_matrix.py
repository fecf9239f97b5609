"""
How long the clients that speak RFC 2090 take, four of a kind and all kinds in one group, in all weathers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from castd.testing import Network, pattern
from tests.support.clients.multicast import ATFTP, HABITS, Habit, Machine
from tests.support.matrix import WEATHERS, Weather, compare
from tests.support.quick import slowBut
from tests.support.stage import GroupStage

CONTENT = pattern(100_000)
#: Etherboot takes blocks of 1024 only, and asks at this port only, so all share a group of that.
OPTIONS = {"blksize": 1024, "gather": 0.2}
PORT = 1758


def load(habits: list[Habit], weather: Weather, seed: int = 3) -> tuple[GroupStage, list[Machine]]:
    """Let these machines load the file, 20 ms apart, and everything end."""
    network = Network(seed, weather.loss, weather.duplicate, weather.reorder, latency=0.0003, capture=False)
    with GroupStage({"f": CONTENT}, network=network, options=OPTIONS, port=PORT, seed=seed, jitter=True) as stage:
        machines = [
            Machine(network.host(f"10.0.0.{10 + index}"), habit, "f", stage.server, CONTENT)
            for index, habit in enumerate(habits)
        ]
        for index, machine in enumerate(machines):
            network.callLater(index * 0.02, machine.begin)
        network.run(lambda: all(machine.over for machine in machines), limit=900, datagrams=100_000)
        last = network.seconds()
        network.advance(120)
        stage.over()
        stage.lasted = last
    return stage, machines


def run(habits: list[Habit], weather: Weather) -> tuple[float, int] | None:
    """Return virtual seconds until the last has its file, and datagrams; None: somebody has not."""
    stage, machines = load(habits, weather)
    return (stage.lasted, stage.network.sent) if all(machine.done for machine in machines) else None


@pytest.mark.parametrize("habit", slowBut(lambda habit: habit == ATFTP, HABITS), ids=lambda habit: habit.name)
def test_runs(habit: Habit) -> None:
    """The table's seconds and datagrams for four of this kind in every weather."""
    compare(f"multicast: {habit.name}", lambda weather: run([habit] * 4, weather))


@pytest.mark.slow
def test_mixed() -> None:
    """The same for two of each kind in one group."""
    compare("multicast: mixed", lambda weather: run([*HABITS, *HABITS], weather))


@pytest.mark.slow
@pytest.mark.parametrize(
    "weather",
    [each for each in WEATHERS if each.name != "20 %"],
    ids=lambda weather: weather.name,
)
def test_everybodyIsServed(weather: Weather) -> None:
    """Up to 5 % loss each way two of each kind in one group all get the file, whatever the seed."""
    for seed in range(4):
        _, machines = load([*HABITS, *HABITS], weather, seed)
        assert {machine.habit.name: machine.failed for machine in machines if not machine.done} == {}


def test_aMastersDeathCostsTheOthersASecond() -> None:
    """The master's plug is pulled in mid-transfer: the others have the file hardly more than a second later."""
    ends = []
    for kill in (False, True):
        network = Network(3, latency=0.0003, capture=False)
        with GroupStage({"f": CONTENT}, network=network, options=OPTIONS, port=PORT) as stage:
            machines = [
                Machine(network.host(f"10.0.0.{10 + index}"), HABITS[0], "f", stage.server, CONTENT)
                for index in range(5)
            ]
            for machine in machines:
                machine.begin()
            network.run(lambda machines=machines: machines[0].blocks > 30, limit=10)
            if kill:
                machines[0].die()
            network.run(lambda machines=machines: all(machine.over for machine in machines), limit=60)
            assert all(machine.done for machine in machines if not machine.dead)
            ends.append(network.seconds())
            network.advance(60)
            stage.over()
    assert ends[1] - ends[0] < 1.5


@pytest.mark.slow
def test_theGroupSharesItsRate() -> None:
    """Those who hear nothing go on by unicast while a group with a rate has half a minute to go: all get the file."""
    network = Network(3, latency=0.0003, capture=False)
    content = pattern(2_000_000)
    with GroupStage({"f": content}, network=network, options={"gather": 0.2, "rate": 60_000}) as stage:
        habits = [ATFTP, ATFTP, replace(ATFTP, deaf=True), replace(ATFTP, deaf=True)]
        machines = [
            Machine(network.host(f"10.0.0.{10 + index}"), habit, "f", stage.server, content)
            for index, habit in enumerate(habits)
        ]
        for machine in machines:
            machine.begin()
        network.run(lambda: all(machine.over for machine in machines), limit=200)
        assert [machine.failed for machine in machines] == [""] * 4
        # Half of the rate is the group's, as long as there is one.
        assert max(machine.ended for machine in machines[:2]) < 2 * len(content) / 60_000
        network.advance(60)
        stage.over()
