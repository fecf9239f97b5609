"""
How long the clients of the field take to read a file by unicast TFTP, in all weathers.
"""

import pytest

from castd.testing import Network, pattern
from tests.support.clients.tftp import HABITS, HPA, PLAIN, Habit, Simulated
from tests.support.matrix import WEATHERS, Weather, compare
from tests.support.quick import slowBut
from tests.support.stage import SERVER, TftpStage

CONTENT = pattern(200_000)


def read(habit: Habit, weather: Weather, machines: int = 1, seed: int = 3) -> tuple[TftpStage, list[Simulated]]:
    """Let so many machines of one kind read the file, and everything end."""
    network = Network(seed, weather.loss, weather.duplicate, weather.reorder, latency=0.0005, capture=False)
    with TftpStage({"f": CONTENT}, network=network, seed=seed, jitter=True) as stage:
        hosts = [network.host(f"10.0.0.{10 + index}") for index in range(machines)]
        clients = [Simulated(host, habit, "f", SERVER) for host in hosts]
        for index, client in enumerate(clients):
            network.callLater(index * 0.01, client.begin)
        network.run(lambda: all(client.over for client in clients), limit=900, datagrams=100_000)
    return stage, clients


@pytest.mark.slow
@pytest.mark.parametrize("habit", slowBut(lambda habit: habit in (PLAIN, HPA), HABITS), ids=lambda habit: habit.name)
def test_runs(habit: Habit) -> None:
    """The table's seconds and datagrams, for this client in every weather; whoever is done has the file."""

    def run(weather: Weather) -> tuple[float, int] | None:
        stage, (client,) = read(habit, weather)
        if not client.done:
            return None
        assert bytes(client.octets) == CONTENT
        return stage.network.seconds(), stage.network.sent

    compare(f"tftp: {habit.name}", run)


@pytest.mark.parametrize(
    "weather",
    slowBut(lambda weather: weather.name == "5 %", WEATHERS[:3] + WEATHERS[4:]),
    ids=lambda weather: weather.name,
)
def test_everybodyIsServed(weather: Weather) -> None:
    """Up to 5 % loss each way, twelve machines of twelve kinds at once all get the whole file, whatever the seed."""
    for seed in range(3):
        network = Network(seed, weather.loss, weather.duplicate, weather.reorder, latency=0.0005, capture=False)
        with TftpStage({"f": CONTENT}, network=network, seed=seed, jitter=True) as stage:
            clients = [
                Simulated(network.host(f"10.0.0.{10 + index}"), habit, "f", SERVER)
                for index, habit in enumerate(HABITS)
            ]
            for client in clients:
                client.begin()
            network.run(lambda clients=clients: all(client.over for client in clients), limit=900, datagrams=100_000)
            assert {client.habit.name: client.failed for client in clients if not client.done} == {}
            assert all(bytes(client.octets) == CONTENT for client in clients)
            network.advance(60)
            stage.over()


def test_aLostBlockCostsMilliseconds() -> None:
    """At 1 % loss each way a client is served within two seconds; servers with fixed timers take ten times that."""
    for seed in range(5):
        stage, (client,) = read(PLAIN, Weather("1 %", loss=0.01), seed=seed)
        assert client.done
        assert stage.network.seconds() < 2


def test_lossIsRepairedWithFewRepetitions() -> None:
    """A repetition is sent for what was lost, and for little else: at 5 % each way some 11 % more datagrams."""
    for habit in (PLAIN, HPA):
        clean, _ = read(habit, Weather("no loss"))
        lossy, (client,) = read(habit, Weather("5 %", loss=0.05))
        assert client.done
        assert lossy.network.sent < 1.3 * clean.network.sent


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_duplicatesDoNotMultiply(habit: Habit) -> None:
    """
    Where every tenth datagram comes twice, no client and no server makes more of it: no sorcerer's apprentice, not with
    windows either.
    """
    clean, _ = read(habit, Weather("no loss"))
    twice, (client,) = read(habit, Weather("twice", duplicate=0.1))
    assert client.done
    assert twice.network.sent < 1.1 * clean.network.sent + 10
