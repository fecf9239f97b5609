"""
What one machine of a group misses, cannot hear or draws out costs the others next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from twisted.internet.protocol import DatagramProtocol

from castd.packets.tftp import Oack, TftpRequest, buildAck, buildRequest, parse
from castd.request import Peer
from castd.testing import Host, Network, pattern
from tests.support.clients.multicast import ATFTP, EDK2, HEARING, IPXE, UBOOT, Habit, Machine
from tests.support.quick import slowBut
from tests.support.stage import GroupStage

CONTENT = pattern(1_000_000)
PORT = 1758


class Group:
    """
    A hall of machines that load one file from one group.

    @ivar machines: in the order in which they ask.
    """

    def __init__(
        self,
        habits: Sequence[Habit],
        content: bytes = CONTENT,
        seed: int = 3,
        latency: float = 0.0002,
        **options: float,
    ) -> None:
        self.network = Network(seed, latency=latency, capture=False)
        self.content = content
        self.stage = GroupStage({"f": content}, network=self.network, options={"gather": 0.2, **options}, seed=seed)
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
        """Blocks sent for each block of the file since this was last asked, by all groups, which have ended."""
        self.network.advance(60)
        blocks = sum(event["blocks"] + event["beside"] for event in self.stage.told("closed"))
        self.stage.events.clear()
        return float(blocks / (len(self.content) // 1428 + 1))


@pytest.mark.slow
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


@pytest.mark.parametrize("habit", [ATFTP, EDK2], ids=["atftp", "EDK II"])
def test_aLongWay(habit: Habit) -> None:
    """Behind 40 ms, each way, members show that they hear the group without a block that is sent twice."""
    group = Group([habit] * 12, pattern(100_000), latency=0.04)
    with group.stage:
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 12
        assert group.cost == 1.0


@pytest.mark.parametrize("samePort", [True, False])
def test_aMasterRestarts(samePort: bool) -> None:
    """A master that begins anew, from whatever port, hears the rest of the pass: it costs what was sent before."""
    group = Group([ATFTP] * 4)
    sent: list[float] = []

    def restart() -> None:
        old = group.machines[0]
        assert old.master
        sent.append(old.blocks / old.count)
        host, port = old.host, old.stop()
        group.machines[0] = new = group.machine(host.addresses[0], ATFTP)
        new.begin(port if samePort else 0)

    with group.stage:
        group.network.callLater(0.3, restart)
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 4
        assert 0.2 < sent[0] < 0.8
        assert group.cost < 1.0 + sent[0] + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seconds", slowBut(lambda seconds: seconds == 20.0, (5.0, 10.0, 20.0, 45.0)))
def test_aHallIsSwitchedOffAndOn(seconds: float) -> None:
    """All machines of a hall are switched off in mid-pass, and on again: they are served as if they had just come."""
    group = Group([ATFTP, EDK2, HEARING, UBOOT] * 4)

    def off() -> None:
        for machine in group.machines:
            machine.die()

    def on() -> None:
        for machine in group.machines:
            machine.stop()
        group.machines = [group.machine(each.host.addresses[0], each.habit) for each in group.machines]
        for machine in group.machines:
            machine.begin()

    with group.stage:
        group.network.callLater(0.4, off)
        group.network.callLater(seconds, on)
        for index, machine in enumerate(group.machines):
            group.network.callLater(index * 0.001, machine.begin)
        group.network.run(lambda: group.network.seconds() > seconds and all(each.over for each in group.machines))
        assert [machine.failed for machine in group.machines] == [""] * 16
        assert group.network.seconds() < seconds + 1.2
        group.network.advance(60)
        group.stage.over()


def hearing(deaf: int) -> tuple[float, float]:
    """
    Let sixteen load the file; from 0.4 s on so many of them hear nothing of the group, among them the master.

    @return: seconds until the last of the others has it, and until all have it.
    """
    group = Group([ATFTP] * 16, pattern(4_000_000))
    with group.stage:
        # Every second one, so that they alternate in the order of the turns while there are others.
        gone = sorted(group.machines, key=lambda machine: group.machines.index(machine) % 2)[:deaf]
        group.network.callLater(0.4, group.deafen, *gone)
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 16
        ends = [machine.ended for machine in group.machines]
        others = [end for end, machine in zip(ends, group.machines, strict=True) if machine not in gone]
        group.network.advance(60)
        # Others may go with them when everything was sent, which costs those nothing: they have it.
        assert deaf <= len(group.stage.told("moved"))
        group.stage.over()
    return max(others, default=0.0), max(ends)


@pytest.mark.slow
@pytest.mark.parametrize("deaf", slowBut(lambda deaf: deaf == 5, (1, 4, 5, 8, 12, 15, 16)))
def test_someHearNoMore(deaf: int) -> None:
    """Any number of sixteen hear nothing from mid-transfer on: all get the file, the others within 2 s of the time."""
    calm, _ = hearing(0)
    others, last = hearing(deaf)
    assert others < calm + 2.0
    assert last < calm + 6.0


def addresses(machines: Sequence[Machine]) -> list[str]:
    return [machine.host.addresses[0] for machine in machines]


def remembered(group: Group) -> set[str]:
    return {host for host, _ in group.stage.site.deafMachines.remembered(group.network.seconds())}


@pytest.mark.slow
def test_twoDeafMachinesAskFirst() -> None:
    """Two stock iPXE ask before fourteen atftp: two files by unicast and one to the group, and no atftp is blamed."""
    group = Group([IPXE] * 2 + [ATFTP] * 14)
    with group.stage:
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 16
        assert remembered(group) == set(addresses(group.machines[:2]))
        assert [event["peer"].partition(":")[0] for event in group.stage.told("moved")] == addresses(group.machines[:2])
        assert group.cost <= 3.2
        group.machines = [group.machine(host, ATFTP) for host in addresses(group.machines[2:])]
        group.run()
        assert group.stage.told("moved") == []
        assert group.cost <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize("first", slowBut(lambda first: first == 3, range(1, 13)))
def test_howeverManyDeafMachinesAskFirst(first: int) -> None:
    """Each of them costs a file by unicast, and for each eight of them one of the others may."""
    group = Group([IPXE] * first + [ATFTP] * (16 - first))
    with group.stage:
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 16
        # Those who went with another one were not found to be deaf themselves.
        assert remembered(group) <= set(addresses(group.machines[:first]))
        assert len(remembered(group)) >= min(first, 8)
        assert group.cost <= first + 1.1 + first // 8


@pytest.mark.slow
@pytest.mark.parametrize(("habit", "seconds"), [(ATFTP, 8.0), (IPXE, 5.0), (HEARING, 5.0), (EDK2, 8.0), (UBOOT, 8.0)])
def test_nobodyIsReached(habit: Habit, seconds: float) -> None:
    """A hall of a hundred that nothing reaches, of any kind, is served by unicast before anybody gives up."""
    group = Group([replace(habit, deaf=True)] * 100, pattern(50_000))
    with group.stage:
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 100
        assert max(machine.ended for machine in group.machines) < seconds


@pytest.mark.slow
def test_aSwitchForgetsALargeGroup() -> None:
    """A hall of 240 hears nothing any more from mid-pass on: all get the file before the last ones give up."""
    group = Group([EDK2] * 240, pattern(100_000))
    with group.stage:
        group.network.losing(lambda source, to, datagram: to[1] == PORT and datagram[2:4] > b"\0\x20")
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 240
        assert max(machine.ended for machine in group.machines) < 10.0
        assert remembered(group) == set()


@pytest.mark.slow
def test_theGroupIsInterrupted() -> None:
    """A switch drops the group for two seconds: those who had no turn meanwhile hear the rest of it."""
    group = Group([ATFTP] * 100, pattern(300_000))
    network = group.network
    with group.stage:
        network.losing(lambda source, to, datagram: to[1] == PORT and 0.35 < network.seconds() < 2.35)
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 100
        assert 8 < len(group.stage.told("moved")) < 35


def test_notRemembered() -> None:
    """With C{deaf-for: 0} a machine is never remembered."""
    group = Group([IPXE, ATFTP], deafFor=0)
    with group.stage:
        group.run()
        assert len(group.stage.told("moved")) == 1
        assert remembered(group) == set()


@pytest.mark.slow
def test_rememberedForAWhile() -> None:
    """A deaf machine is in no group until C{deaf-for} is over; the log says for how long."""
    group = Group([IPXE, ATFTP], deafFor=100)
    host = "10.0.0.10"
    with group.stage:
        group.run()
        (moved,) = group.stage.told("moved")
        assert moved["remembered"] == 100.0
        for declined in (True, False):
            group.stage.events.clear()
            group.machines = [group.machine(host, ATFTP)]
            group.run()
            assert (group.stage.told("declined") != []) is declined
            group.network.advance(100)


class BusyMachine(Machine):
    """
    A machine that is busy now and then: what comes meanwhile is read afterwards, 5 ms apart, its own datagrams first.

    @ivar most: the most datagrams that have waited.
    """

    def __init__(self, host: Host, habit: Habit, name: str, server: Peer, content: bytes) -> None:
        super().__init__(host, habit, name, server, content)
        self._alone: list[tuple[bytes, Peer]] = []
        self._group: list[tuple[bytes, Peer]] = []
        self._busy = False
        self.most = 0

    def stall(self, seconds: float) -> None:
        """Be busy from now on, if it is the master."""
        if not self._busy and self.master:
            self._busy = True
            self.host.callLater(seconds, self._next)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        if self._busy:
            self._alone.append((datagram, addr))
        else:
            super().datagramReceived(datagram, addr)

    def heard(self, datagram: bytes, addr: Peer, group: bool) -> None:
        if self._busy:
            self._group.append((datagram, addr))
        else:
            super().heard(datagram, addr, group)

    def _next(self) -> None:
        self.most = max(self.most, len(self._alone) + len(self._group))
        if self._alone:
            super().datagramReceived(*self._alone.pop(0))
        elif self._group:
            super().heard(*self._group.pop(0), True)
        else:
            self._busy = False
            return
        self.host.callLater(0.005, self._next)


@pytest.mark.parametrize("habit", [EDK2, UBOOT, ATFTP], ids=lambda habit: habit.name)
def test_aMasterThatStalls(habit: Habit) -> None:
    """
    A master is busy for 30 ms now and then, and acknowledges all that has come meanwhile, 5 ms apart, on a network that
    loses blocks, so that they are repeated soon.  It is not taken for deaf.
    """
    group = Group([replace(habit, duplicates=1 << 30)] * 3, pattern(1_400_000))
    network = group.network
    network.link(loss=0.03)
    first = BusyMachine(network.host("10.0.0.99"), group.machines[0].habit, "f", group.stage.server, group.content)
    group.machines[0] = first
    with group.stage:
        for index in range(200):
            network.callLater(0.3 + index * 0.1, first.stall, 0.03)
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 3
        assert first.most >= 4, "copies have come while it was busy"
        assert group.stage.told("moved") == []


class StallingMember(DatagramProtocol):
    """
    A member that asks for one block after the other, each as late as the rules allow.

    @ivar pause: seconds from one request to the next.
    """

    noisy = False

    def __init__(self, host: Host, server: Peer, pause: float) -> None:
        self.host, self.server, self.pause = host, server, pause
        self._port = host.listenUDP(0, self)
        self._tid: Peer | None = None
        self._number = 0
        self._turn = 0

    def begin(self) -> None:
        options = (("tsize", "0"), ("blksize", "1428"), ("multicast", ""))
        self._port.write(buildRequest(TftpRequest(False, "f", "octet", options)), self.server)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        packet = parse(datagram)
        self._tid = addr
        if isinstance(packet, Oack) and dict(packet.options)["multicast"].endswith(",1"):
            self._turn += 1
            self._ask(self._turn)

    def _ask(self, turn: int) -> None:
        if turn == self._turn and self._tid is not None:
            self._port.write(buildAck(self._number), self._tid)
            self._number += 1
            self.host.callLater(self.pause, self._ask, turn)


@pytest.mark.parametrize("pause", [0.04, 0.28, 0.9, 2.9])
def test_oneMachineWithEightPorts(pause: float) -> None:
    """However one machine with eight ports draws out its turns, the others wait for it no longer than for one port."""
    group = Group([ATFTP] * 14)
    stalling = group.network.host("10.0.0.200")
    attackers = [StallingMember(stalling, group.stage.server, pause) for _ in range(8)]
    with group.stage:
        for attacker in attackers:
            attacker.begin()
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 14
        assert max(machine.ended for machine in group.machines) < 11.5


@pytest.mark.slow
@pytest.mark.parametrize(("latency", "size"), [(0.075, 300_000), (0.018, 1_400_000)])
def test_answersTakeLong(latency: float, size: int) -> None:
    """
    Every machine answers so late that it spends what a machine may cost, in whole round trips or not: then it comes
    last, and is given no turn that is over before it can answer.
    """
    group = Group([ATFTP] * 16, pattern(size), latency=latency)
    with group.stage:
        group.run()
        assert [machine.failed for machine in group.machines] == [""] * 16
        assert {event["outcome"] for event in group.stage.told("received")} == {"done"}
