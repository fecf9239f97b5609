"""
What one machine of a group misses, cannot hear or draws out costs the others next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from castd.testing import Network, pattern
from tests.support.clients.multicast import ATFTP, Habit, Machine
from tests.support.stage import GroupStage

CONTENT = pattern(1_000_000)
PORT = 1758


class Group:
    """
    A hall of machines that load one file from one group.

    @ivar machines: in the order in which they ask.
    """

    def __init__(
        self, habits: Sequence[Habit], content: bytes = CONTENT, seed: int = 3, latency: float = 0.0002
    ) -> None:
        self.network = Network(seed, latency=latency, capture=False)
        self.content = content
        self.stage = GroupStage({"f": content}, network=self.network, options={"gather": 0.2}, seed=seed)
        self.machines = [self.machine(f"10.0.0.{10 + index}", habit) for index, habit in enumerate(habits)]

    def machine(self, host: str, habit: Habit) -> Machine:
        return Machine(self.network.host(host), habit, "f", self.stage.server, self.content)

    def deafen(self, *machines: Machine) -> None:
        """From now on a switch drops what is sent to the group before it reaches these machines."""
        hosts = {machine.host.addresses[0] for machine in machines}
        self.network.losing(lambda source, to, datagram: to[1] == PORT and to[0] in hosts)

    def run(self, limit: float = 120.0) -> None:
        """Let all machines begin, 1 ms apart, and wait until each has ended."""
        for index, machine in enumerate(self.machines):
            self.network.callLater(index * 0.001, machine.begin)
        self.network.run(lambda: all(machine.over for machine in self.machines), limit=limit)

    @property
    def cost(self) -> float:
        """Blocks sent for each block of the file, by all casts that have ended."""
        self.network.advance(60)
        blocks = sum(event["blocks"] + event["beside"] for event in self.stage.told("closed"))
        return float(blocks / (len(self.content) // 1428 + 1))


@pytest.mark.parametrize("latency", [0.0002, 0.03])
def test_aListenersFirstAnswerIsLost(latency: float) -> None:
    """The first OACK of a listener is lost: it comes again before the first block, and the file goes out once."""
    group = Group([ATFTP] * 4, latency=latency)
    lost = []

    def loses(source: tuple[str, int], to: tuple[str, int], datagram: bytes) -> bool:
        first = to[0] == "10.0.0.12" and datagram[:2] == b"\0\6" and not lost
        lost.extend([to] * first)
        return first

    group.network.losing(loses)
    with group.stage:
        group.run()
        assert lost
        assert [machine.asked for machine in group.machines] == [1] * 4
        assert group.cost < 1.01
