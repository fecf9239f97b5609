"""
castd doctor --probe asks as machines that boot do, and tells what castd itself and the DHCP servers around answer, how
soon, and whether the file that is named can be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from castd.doctor.boot import FIRMWARE
from castd.doctor.findings import Finding, Subject
from castd.doctor.machine import BootAnswer
from castd.doctor.ports import lookForServers
from castd.packets import dhcp, tftp
from castd.packets.dhcp import DhcpPacket
from castd.packets.tftp import Data, Error, Packet
from castd.request import Peer
from castd.service.service import read
from castd.testing import RecordingClient
from tests.support.doctor import FakeMachine, subject
from tests.support.pxe import BOOT, COLLECTED, SERVER, ProxyStage

OPEN = "fine: proxydhcp: port 4011 is open; what machines are told there is not asked from castd's own address"

#: What most service files say.
RULES = (
    {"ipxe": "true", "boot": "boot.ipxe"},
    {"arch": "bios", "boot": "undionly.kpxe"},
    {"arch": "efi-x64", "boot": "snponly.efi"},
)


class StageMachine(FakeMachine):
    """
    The machine of a L{ProxyStage}: what is asked goes over the network in memory to the castd there.

    @ivar drops: ports of castd that nothing comes to.
    """

    def __init__(self, stage: ProxyStage, *, drops: tuple[int, ...] = (), others: Sequence[BootAnswer] = ()) -> None:
        routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        routes += "eth0 0000420A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
        super().__init__(devices={"127.0.0.1": "lo", SERVER: "eth0"}, texts={"/proc/net/route": routes})
        self.stage, self.drops, self.others = stage, drops, tuple(others)
        self.asked: list[DhcpPacket] = []
        self.clients = iter(range(10, 100))

    def client(self) -> RecordingClient:
        """Return a client at an address of its own, as castd sees no two transfers of one."""
        return RecordingClient(self.stage.network.host(f"10.66.0.{next(self.clients)}/24"))

    def offers(self, interface: str, requests: Sequence[DhcpPacket], seconds: float) -> list[BootAnswer]:
        assert interface == SERVER
        found = list(self.others)
        for number, request in enumerate(requests):
            self.asked.append(request)
            if dhcp.SERVER_PORT in self.drops:
                continue
            # From this very machine, which has an address.
            datagram = dhcp.build(replace(request, xid=bytes([1, 0, 0, number])))
            said = self.stage.hear(datagram, (SERVER, 43210))
            found += [BootAnswer(number, each.packet, each.source[0], 0.0042) for each in said]
        return found

    def isOpen(self, interface: str, port: int, seconds: float) -> bool:
        assert (interface, port) == BOOT
        assert self.stage.hear(b"", (SERVER, 43211), BOOT) == []
        return port not in self.drops

    def firstBlock(self, name: str, server: Peer, interface: str, seconds: float) -> Packet | None:
        if server[1] in self.drops:
            return None
        client = self.client()
        client.send(tftp.buildRequest(tftp.TftpRequest(False, name, "octet", ())), server)
        self.stage.network.advance(0.1)
        letter = client.expect(seconds)
        client.send(tftp.buildError(0, "enough"), letter.source)
        return tftp.parse(letter.datagram)


def told(stage: ProxyStage, machine: FakeMachine, pid: int | None = 4711) -> list[Finding]:
    """Return what doctor finds with --probe, but for what it says of programs of this machine."""
    about = Subject(read(stage.file, COLLECTED), pid=pid, probe=True)
    return [each for each in lookForServers(about, machine) if "on this machine" not in each.what]


def dhcpOffer(server: str, seconds: float = 0.02, number: int = 0) -> BootAnswer:
    """Return the offer of a plain DHCP server."""
    options = {dhcp.MESSAGE_TYPE: bytes([dhcp.OFFER]), dhcp.SERVER_ID: IPv4Address(server).packed}
    packet = DhcpPacket(dhcp.BOOTREPLY, 1, 6, bytes(4), bytes(16), yiaddr=IPv4Address("10.66.0.200"), options=options)
    return BootAnswer(number, packet, server, seconds)


def shown(found: Sequence[Finding]) -> list[str]:
    return [f"{each.verdict}: {each.what}" for each in found]


def test_allIsWell(tmp_path: Path) -> None:
    """Of a castd that answers all is told: DHCP servers, each offer with its time, port 4011, and the files."""
    with ProxyStage(tmp_path, *RULES) as stage:
        machine = StageMachine(stage, others=[dhcpOffer("10.66.0.1", 0.02), dhcpOffer("10.66.0.1", 0.031, 1)])
        assert shown(told(stage, machine)) == [
            "not seen: eth0: another machine with the address 10.66.0.2",
            "fine: eth0: one DHCP server offers an address: 10.66.0.1 after 20 ms",
            "fine: proxydhcp: castd offers bios the file undionly.kpxe, after 4 ms",
            "fine: proxydhcp: castd offers efi-x64 the file snponly.efi, by port 4011, after 4 ms",
            "fine: proxydhcp: castd offers iPXE the file boot.ipxe, after 4 ms",
            OPEN,
            "fine: proxydhcp: the first block of undionly.kpxe comes: 13 octets",
            "fine: proxydhcp: the first block of snponly.efi comes: 11 octets",
            "fine: proxydhcp: the first block of boot.ipxe comes: 9 octets",
            "not seen: eth0: another server that tells machines what to boot",
        ]
        stage.network.advance(60)
        assert not stage.told("unfetched")


def test_dhcpServerHere(tmp_path: Path) -> None:
    """A DHCP server of this machine is not taken for castd, whose address it has; what it says of booting is told."""
    first, second = dhcpOffer(SERVER, 0.001), dhcpOffer(SERVER, 0.001, 1)
    others = [first, second._replace(packet=replace(second.packet, file=b"pxelinux.0"))]
    with ProxyStage(tmp_path, *RULES) as stage:
        found = shown(told(stage, StageMachine(stage, others=others)))
    assert "fine: proxydhcp: castd offers bios the file undionly.kpxe, after 4 ms" in found
    assert "fine: proxydhcp: castd offers efi-x64 the file snponly.efi, by port 4011, after 4 ms" in found
    here = f"the DHCP server {SERVER} tells machines what to boot: file pxelinux.0, from {SERVER}"
    assert f"problem: eth0: {here}" in found


@pytest.mark.parametrize(
    ("pid", "drops", "wanted"),
    [
        (4711, (67,), "problem: proxydhcp: castd's offer to bios, within 4 s, by rules[1]"),
        (None, (67,), "not seen: proxydhcp: castd's offer to bios, within 4 s, by rules[1]"),
        (4711, (4011,), "problem: proxydhcp: port 4011 is closed"),
        (None, (4011,), "not seen: proxydhcp: port 4011 is closed"),
        (4711, (69,), "problem: proxydhcp: the first block of snponly.efi does not come within 2 s"),
        (4711, (), "not seen: eth0: a DHCP server, within 4 s"),
    ],
)
def test_silence(tmp_path: Path, pid: int | None, drops: tuple[int, ...], wanted: str) -> None:
    """What does not come is a problem where this castd runs, and not seen where it may just not have been started."""
    with ProxyStage(tmp_path, *RULES) as stage:
        assert wanted in shown(told(stage, StageMachine(stage, drops=drops), pid))


def test_missingFile(tmp_path: Path) -> None:
    """A rule whose file is missing is silence on the wire, which doctor names."""
    with ProxyStage(tmp_path, {"arch": "bios", "boot": "nothing.kpxe"}) as stage:
        found = shown(told(stage, StageMachine(stage)))
        assert "problem: proxydhcp: castd's offer to bios, within 4 s, by rules[0]" in found
        assert OPEN in found
        assert "skipped: proxydhcp: no rule is for each machine of kind efi-x64" in found


@pytest.mark.parametrize(
    "rule",
    [
        {"machines": ["52:54:00:*"]},
        {"user-class": "mine"},
        {"networks": "10.67.0.0/24"},
        # A part of the network: a machine that has no address yet may be in the other one.
        {"networks": "10.66.0.0/25"},
        {"networks": SERVER},
        {"ipxe": "true", "lacks": "tftp"},
        {"arch": "efi-arm64"},
        {"arch": "pc98", "ipxe": "false"},
    ],
)
def test_notForAll(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Silence is no fault where no rule is for all machines of a kind."""
    with ProxyStage(tmp_path, {**rule, "boot": "snponly.efi"}) as stage:
        found = [each for each in told(stage, StageMachine(stage)) if each.what.startswith("proxydhcp")]
        assert [each.verdict for each in found if "port 4011" not in each.what] == ["skipped"] * len(FIRMWARE)
        assert OPEN in shown(found)


@pytest.mark.parametrize(
    "rule",
    [{"machines": "02:*"}, {"user-class": "iPXE"}, {"ipxe": "true", "lacks": "http"}, {"networks": "10.66.0.0/16"}],
)
def test_asTheServerDoes(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Which rule is for what doctor asks is found out as castd does it: where none comes, an offer is missing."""
    with ProxyStage(tmp_path, {**rule, "boot": "boot.ipxe"}) as stage:
        found = shown(told(stage, StageMachine(stage)))
        assert "fine: proxydhcp: castd offers iPXE the file boot.ipxe, after 4 ms" in found
        missing = shown(told(stage, StageMachine(stage, drops=(67,))))
        assert "problem: proxydhcp: castd's offer to iPXE, within 4 s, by rules[0]" in missing


def test_othersAreClients(tmp_path: Path) -> None:
    """A castd that answers machines behind relays only has nothing to say in its own network."""
    own = {"relays": "true", "clients": "10.67.0.0/24"}
    with ProxyStage(tmp_path, *RULES, own=own) as stage:
        found = [each for each in told(stage, StageMachine(stage)) if each.what.startswith("proxydhcp")]
        assert [each.verdict for each in found if "port 4011" not in each.what] == ["skipped"] * len(FIRMWARE)


def test_onlyPort4011(tmp_path: Path) -> None:
    """Without port 67 one DISCOVER is for the DHCP servers, and of castd only port 4011 is looked at."""
    with ProxyStage(tmp_path, *RULES, own={"port-67": "false"}) as stage:
        machine = StageMachine(stage)
        found = [each for each in shown(told(stage, machine)) if "proxydhcp" in each]
        assert found == [OPEN]
        assert [each.messageType for each in machine.asked] == [dhcp.DISCOVER]


def test_notMoreThanItAnswers(tmp_path: Path) -> None:
    """A castd that answers one machine once in four seconds is not asked so often that it would have to be silent."""
    with ProxyStage(tmp_path, *RULES, own={"answers-per-machine": "0.5/s"}) as stage:
        machine = StageMachine(stage)
        assert "skipped: proxydhcp: answers-per-machine is too low to ask it several times" in shown(
            told(stage, machine)
        )
        assert len(machine.asked) == 1


@pytest.mark.parametrize("port", [0, 67, 68, 69, 1069, 4011, 32767, 32768, 43210, 65535])
def test_neverItsOwnAddress(tmp_path: Path, port: int) -> None:
    """At port 4011 castd answers nobody who has its own address, be it doctor; and who has another one as ever."""
    asked = replace(FIRMWARE[0].discover(), xid=b"ask!", flags=0)
    asked.options[dhcp.MESSAGE_TYPE] = bytes([dhcp.REQUEST])
    with ProxyStage(tmp_path, *RULES) as stage:
        own, other = (replace(asked, ciaddr=IPv4Address(host)) for host in (SERVER, "10.66.0.77"))
        assert stage.hear(dhcp.build(own), (SERVER, port), BOOT) == []
        said = stage.hear(dhcp.build(other), ("10.66.0.77", 68), BOOT)
        assert [each.to for each in said] == [("10.66.0.77", 68)]


def test_url(tmp_path: Path) -> None:
    """What iPXE is told as a URL is fetched from the port that it names."""
    transports = {"tftp": {"interface": SERVER, "port": 6969}}
    with ProxyStage(tmp_path, {"ipxe": "true", "boot": "boot.ipxe"}, transports=transports) as stage:
        found = shown(told(stage, StageMachine(stage)))
        assert f"fine: proxydhcp: the first block of tftp://{SERVER}:6969/boot.ipxe comes: 9 octets" in found


def test_severalDhcpServers(tmp_path: Path) -> None:
    """Two DHCP servers may belong together, or not: doctor names both."""
    with ProxyStage(tmp_path, *RULES) as stage:
        two = [dhcpOffer("10.66.0.9", 0.5), dhcpOffer("10.66.0.1", 0.02)]
        found = shown(told(stage, StageMachine(stage, others=two)))
        both = "whether the 2 DHCP servers that offer an address belong together"
        assert f"not known: eth0: {both}: 10.66.0.1 after 20 ms, 10.66.0.9 after 500 ms" in found


def test_menu(tmp_path: Path) -> None:
    """A menu is told as such; the file that the firmware takes first is fetched."""
    items = [{"text": "one", "boot": "undionly.kpxe"}, {"text": "disk"}]
    with ProxyStage(tmp_path, {"menu": {"items": items}}) as stage:
        assert "fine: proxydhcp: castd offers bios a menu, after 4 ms" in shown(told(stage, StageMachine(stage)))


class Answering(StageMachine):
    """A machine whose TFTP server answers with one packet, or an error."""

    packet: Packet | OSError | None = None

    def firstBlock(self, name: str, server: Peer, interface: str, seconds: float) -> Packet | None:
        if isinstance(self.packet, OSError):
            raise self.packet
        return self.packet


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (Data(1, b"x"), "fine"),
        (Error(2, "Access violation"), "not known"),
        (Error(1, "File not found"), "problem"),
        (OSError(111, "Connection refused"), "problem"),
        (None, "problem"),
    ],
)
def test_firstBlock(tmp_path: Path, packet: Packet | None, verdict: str) -> None:
    """A file that is offered and does not come is a problem; one that is refused to this machine may come to others."""
    with ProxyStage(tmp_path, {"arch": "bios", "ipxe": "false", "boot": "undionly.kpxe"}) as stage:
        machine = Answering(stage)
        machine.packet = packet
        (found,) = [each for each in told(stage, machine) if "first block" in each.what]
        assert found.verdict == verdict
        assert bool(found.cure) is (verdict != "fine")


def test_otherSchemes(tmp_path: Path) -> None:
    """A file that iPXE fetches by another protocol is left to castd get."""
    transports = {"tftp": {"interface": SERVER}, "multicast": {"interface": SERVER, "port": 1069}}
    with ProxyStage(tmp_path, {"ipxe": "true", "boot": "boot.ipxe", "by": "multicast"}, transports=transports) as stage:
        (found,) = [each for each in told(stage, StageMachine(stage)) if "first block" in each.what]
        assert (found.verdict, "castd get" in found.cure) == ("skipped", True)


def test_asMachinesDo() -> None:
    """What is sent can be read as the request of a machine that boots, with an address that none has."""
    for firmware in FIRMWARE:
        packet = dhcp.parse(dhcp.build(firmware.discover()))
        assert (packet.messageType, packet.hardwareAddress) == (dhcp.DISCOVER, "02:63:61:73:74:64")
        assert packet.option(dhcp.VENDOR_CLASS).startswith(b"PXEClient:")
        assert packet.flags == dhcp.BROADCAST


def test_elsewhere(tmp_path: Path) -> None:
    """Where no proxydhcp is at an interface, one DISCOVER is sent for the others, and nothing is asked of castd."""
    with ProxyStage(tmp_path, *RULES) as stage:
        machine = StageMachine(stage)
        about = replace(subject(tmp_path, tftp={"port": 69, "interface": SERVER}), probe=True)
        assert not [each for each in lookForServers(about, machine) if "proxydhcp" in each.what]
        assert [each.messageType for each in machine.asked] == [dhcp.DISCOVER]
