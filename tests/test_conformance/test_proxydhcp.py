"""
What a proxy of DHCP must say and must not say, case by case: the real service, made from a service file.

On a network in memory the server is 10.66.0.2/24, the machine 10.66.0.115 with 52:54:00:66:00:10.  C{P-}, C{Q-} and
C{S-} are datagrams of C{tests/vectors/proxydhcp.json}, C{A-} the answers that are required octet for octet.
"""

from __future__ import annotations

import gc
import json
import os
import random
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from zope.interface.verify import verifyObject

from castd.cli.main import main
from castd.cli.pxe import _REASONS
from castd.errors import ConfigError, NotFound, WireError
from castd.interfaces import IPortService, ITransportMaker
from castd.net.ports import Ports
from castd.observe.metrics import PXE_REASONS, Counters
from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket
from castd.proxydhcp import answers, checks
from castd.proxydhcp import service as proxyservice
from castd.proxydhcp.answers import BootRules, RuleInForce, answer, candidates, itemType, unmatched
from castd.proxydhcp.checks import Checker
from castd.proxydhcp.limits import MOST_MACHINES, MOST_REFUSALS
from castd.proxydhcp.options import (
    LONGEST_NAME,
    BootRule,
    Menu,
    Options,
    architectureNumbers,
    architectureWords,
)
from castd.proxydhcp.requests import REASONS, BootRequest, Machine, Reach, Silence, read
from castd.proxydhcp.service import MOST_TOLD, KnownFiles
from castd.request import Local
from castd.service import service
from castd.slices import Slices
from castd.testing import RecordingClient
from tests.support.disks import result
from tests.support.hostile import DATAGRAMS, rounds
from tests.support.log import observed
from tests.support.noise import SEEDS, mutated
from tests.support.pxe import (
    ALL,
    BOOT,
    COLLECTED,
    MACHINE,
    NOWHERE,
    SERVER,
    TFTP,
    ProxyStage,
    Said,
    ask,
    discover,
    faults,
    vector,
    warnings,
)
from tests.support.server import Turns, pageOf
from tests.support.vectors import FOLDER, vectors

IPXE = {"ipxe": True, "boot": "boot.ipxe"}
X64 = {"arch": "efi-x64", "boot": "snponly.efi"}
BIOS = {"arch": "bios", "ipxe": False, "boot": "undionly.kpxe"}
MENU = {
    "menu": {
        "prompt": "F8 for more",
        "wait": "5 s",
        "items": [{"text": "First boot", "boot": "boot.ipxe"}, {"text": "Second boot", "boot": "undionly.kpxe"}],
    }
}
MENU_X64 = {
    "arch": "efi-x64",
    "menu": {
        "items": [{"text": "First boot", "boot": "snponly.efi"}, {"text": "Second boot", "boot": "undionly.kpxe"}]
    },
}
MTFTP: dict[str, Any] = {
    "mtftp": {"interface": SERVER, "files": {"undionly.kpxe": "239.255.1.1:3001"}},
    **TFTP,
}
RELAYED = {"relays": True, "clients": ["10.66.0.0/24", "10.67.0.0/24"]}
RELAY = ("10.67.0.1", 67)


def only(said: list[Said]) -> Said:
    """The one answer."""
    (one,) = said
    return one


# Octet for octet.


def test_PX01_direct(tmp_path: Path) -> None:
    """PX-01: iPXE gets a complete offer by broadcast."""
    with ProxyStage(tmp_path, IPXE) as stage:
        assert verifyObject(IPortService, stage.service)
        assert verifyObject(ITransportMaker, COLLECTED.transports["proxydhcp"])
        assert stage.replay("P-20") == [Said((SERVER, 67), ("255.255.255.255", 68), vector("A-01"))]
        (told,) = stage.told("offered")
        line = told["log_format"].format(**told)
        assert line == "52:54:00:66:00:10 bios: offered boot.ipxe from 10.66.0.2 (rule 1, direct)"
        assert (told["uuid"], told["xid"], told["relay"]) == ("00112233-4455-6677-8899-aabbccddeeff", "61e4145d", None)


def test_PX02_ask(tmp_path: Path) -> None:
    """PX-02: UEFI gets an offer without option 43, with the file as well."""
    with ProxyStage(tmp_path, X64) as stage:
        assert stage.replay("P-08") == [Said((SERVER, 67), ("255.255.255.255", 68), vector("A-02"))]


def test_PX03_acknowledged(tmp_path: Path) -> None:
    """PX-03: its request to port 4011 is answered from there, to the port that it came from."""
    with ProxyStage(tmp_path, X64) as stage:
        assert stage.replay("P-13") == [Said(BOOT, (MACHINE, 4011), vector("A-03"))]
        assert [each["form"] for each in stage.told("acknowledged")] == ["ask"]


def test_PX04_askedAfterDirect(tmp_path: Path) -> None:
    """PX-04: port 4011 answers also those who had all in the offer."""
    with ProxyStage(tmp_path, IPXE) as stage:
        assert stage.replay("P-34") == [Said(BOOT, (MACHINE, 68), vector("A-04"))]


def test_PX05_mtftp(tmp_path: Path) -> None:
    """PX-05: a BIOS ROM is told the group of the mtftp that is configured; there is no option 97 if none was sent."""
    rule = {"arch": "bios", "boot": "undionly.kpxe", "by": ["mtftp", "tftp"]}
    with ProxyStage(tmp_path, rule, transports=MTFTP) as stage:
        assert only(stage.replay("Q-01")).datagram == vector("A-05")


def test_PX06_raspberryPi(tmp_path: Path) -> None:
    """PX-06: a Raspberry Pi, known by its address, gets the text that it looks for."""
    rule = {"machines": ["b8:27:eb:*"], "answer": "raspberry-pi", "boot": "bootcode.bin"}
    with ProxyStage(tmp_path, rule) as stage:
        assert only(stage.replay("Q-02")).datagram == vector("A-06")


def test_PX07_relay(tmp_path: Path) -> None:
    """PX-07: a relay is answered by unicast, with its option last."""
    with ProxyStage(tmp_path, IPXE, own=RELAYED) as stage:
        assert stage.replay("Q-03") == [Said((SERVER, 67), RELAY, vector("A-07"))]


@pytest.mark.parametrize("own", [{}, {"relays": True}, {"relays": True, "clients": ["10.66.0.0/24"]}])
def test_PX08_noRelay(tmp_path: Path, own: dict[str, Any]) -> None:
    """PX-08: a relay is not answered without relays: true, nor one outside of clients."""
    with ProxyStage(tmp_path, IPXE, own=own) as stage:
        assert stage.replay("Q-03") == []
        assert stage.hear(vector("Q-03"), RELAY, ALL) == []


def test_PX08_relayToldOf(tmp_path: Path) -> None:
    """PX-08: a relay outside of clients, which are the interface's networks by default, is told of once a minute."""
    with ProxyStage(tmp_path, IPXE, own={"relays": True}) as stage:
        assert stage.replay("Q-03") == stage.replay("Q-03") == []
        (line,) = stage.told("unanswered")
        assert (line["verdict"], line["machine"]) == ("boot-network", "52:54:00:66:00:10")
        assert line["told"] == "its relay, 10.67.0.1, is in none of the networks that are answered"
        stage.network.advance(61)
        assert stage.replay("Q-03") == []
        assert len(stage.told("unanswered")) == 2


def test_PX08_linkSelection(tmp_path: Path) -> None:
    """
    PX-08: a relay stands for its machines by its address, and is answered there, also where option 82 names another
    link (RFC 3527); who is not answered for that is told so.
    """
    option = b"\x01\x04\x00\x0a\x00\x01" + b"\x05\x04\x0a\x43\x00\x00"
    asked = discover(giaddr="10.255.0.1", options={82: option})
    relay = ("10.255.0.1", 67)
    with ProxyStage(tmp_path, X64, own=RELAYED) as stage:
        assert stage.hear(asked, relay) == []
        (line,) = stage.told("unanswered")
        assert line["told"] == (
            "its relay, 10.255.0.1, is in none of the networks that are answered, and the link that it names in option "
            "82, 10.67.0.0, is not looked at"
        )
    rules = ({**X64, "networks": "10.67.0.0/24"}, {**X64, "networks": "10.255.0.0/24", "boot": "undionly.kpxe"})
    with ProxyStage(tmp_path, *rules, own={"relays": True, "clients": "10.255.0.0/24"}) as stage:
        said = only(stage.hear(asked, relay))
        assert (said.to, stage.told("offered")[0]["rule"]) == (relay, 2)
        assert dhcp.parse(said.datagram).option(82) == option


def test_PX08_secondRelay(tmp_path: Path) -> None:
    """PX-08: through two relays the request is the first one's, at whose address the answer is awaited."""
    asked = discover(giaddr="10.67.0.1", hops=2, options={82: b"\x01\x01\x07"})
    with ProxyStage(tmp_path, X64, own=RELAYED) as stage:
        said = only(stage.hear(asked, ("10.66.0.1", 67)))
        assert (said.to, dhcp.parse(said.datagram).hops) == (RELAY, 0)


def test_PX08_noWayToTheRelay(tmp_path: Path) -> None:
    """PX-08: an answer that cannot be sent is told of with where it was to go, since that may be a relay far away."""

    class Unroutable:
        def writeFrom(self, *arguments: object) -> None:
            raise OSError(101, "Network is unreachable")

    with ProxyStage(tmp_path, X64, own=RELAYED) as stage:
        stage.service._open = dict.fromkeys(stage.service._open, Unroutable())
        assert stage.hear(discover(giaddr="10.67.0.1"), RELAY) == []
        (line,) = stage.told("unsendable")
        shown = "proxydhcp: no answer to 52:54:00:66:00:10, at 10.67.0.1:67: Network is unreachable"
        assert line["log_format"].format(**line) == shown
        assert stage.told("offered") == []


def test_PX08_snooping(tmp_path: Path) -> None:
    """PX-08: option 82 of a switch that is no relay, which leaves giaddr 0, is not given back."""
    with ProxyStage(tmp_path, X64) as stage:
        said = only(stage.hear(discover(options={82: b"\x01\x01\x07"})))
        assert (said.to, 82 in dhcp.parse(said.datagram).options) == (("255.255.255.255", 68), False)


@pytest.mark.parametrize(
    ("rules", "asked", "told"),
    [
        (
            [{**X64, "networks": "10.66.0.0/24"}, {**BIOS, "networks": "10.66.0.0/24"}],
            {"giaddr": "10.67.0.1"},
            "no rule matches; the nearest is rule 1, but for its networks (its relay is 10.67.0.1)",
        ),
        (
            [IPXE, {**X64, "networks": "10.66.0.0/24"}, {**BIOS, "networks": "10.67.0.0/24"}],
            {"giaddr": "10.67.0.1"},
            "no rule matches; the nearest is rule 2, but for its networks (its relay is 10.67.0.1)",
        ),
        (
            [{**X64, "machines": ["b8:*"]}, BIOS, IPXE],
            {"arch": 11},
            "no rule matches; the nearest is rule 2, but for its arch (it is efi-arm64)",
        ),
        ([BIOS, IPXE], {}, "no rule matches; the nearest is rule 1, but for its arch (it is efi-x64)"),
        (
            [{**X64, "networks": "10.67.0.0/24", "machines": ["b8:27:eb:*"]}],
            {},
            (
                "no rule matches; the nearest is rule 1, but for its machines (it is 52:54:00:66:00:10) and networks "
                "(it is in 10.66.0.0/24)"
            ),
        ),
        (
            [{**X64, "user-class": "lab"}],
            {},
            "no rule matches; the nearest is rule 1, but for its user-class (it has none)",
        ),
        ([{**X64, "boot": "{uuid}"}], {}, "rule 1 matches, and has no file that it can be told"),
    ],
)
def test_PX30_noRule(tmp_path: Path, rules: list[dict[str, Any]], asked: dict[str, Any], told: str) -> None:
    """PX-30: a machine that no rule is for is told of with the rule that comes nearest, and what it lacks of that."""
    with ProxyStage(tmp_path, *rules, own=RELAYED) as stage:
        assert stage.hear(discover(**asked), RELAY if asked else NOWHERE) == []
        (line,) = stage.told("unanswered")
        assert (line["verdict"], line["told"]) == ("boot-rule", told)
        assert told in line["cause"]
        # The same machine with other words is no other line.
        assert stage.hear(discover(**{**asked, "arch": 12, "options": {77: b"x"}})) == []
        assert len(stage.told("unanswered")) == 1


def test_PX30_noRuleIsCheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PX-30: which rule comes nearest is looked for where there is a line, not for each request of a stranger."""
    looked: list[str] = []
    unmatched = proxyservice.unmatched

    def noted(rules: BootRules, request: BootRequest) -> str:
        looked.append(request.machine.address)
        return unmatched(rules, request)

    monkeypatch.setattr(proxyservice, "unmatched", noted)
    with ProxyStage(tmp_path, {**X64, "machines": ["b8:*"]}) as stage:
        for number in range(10):
            assert stage.hear(discover(xid=bytes([0, 0, 0, number]))) == []
        assert len(looked) == len(stage.told("unanswered")) == 1


class _AllRules(BootRules):
    """Rules of which each is compared with each request."""

    def nearest(self, request: BootRequest) -> Iterator[RuleInForce]:
        return iter(self._rules)


def test_PX30_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    PX-30: of many rules only those are compared that may match, and the choice is that of all rules in their order;
    likewise which of them comes nearest.
    """
    chosen = random.Random(30)
    macs = ("52:54:00:66:00:10", "52:54:00:66:00:11", "b8:27:eb:00:00:01")
    uuids = ("00112233-4455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddee00")
    some: dict[str, Sequence[Any]] = {
        "machines": (None, *macs, *uuids, "*", "52:*", "52:54:00:66:00:*", [macs[0], uuids[0], "52:54:*"], macs[1:]),
        "networks": ("any", "any", "10.66.0.0/24", "10.66.0.115", "10.66.0.0/25", ["10.1.0.0/16", "::/0"]),
        "arch": (None, "efi-x64", ["efi-x64", "bios"], "bios"),
        "ipxe": (None, False, True),
        "boot": ("a", "{mac}", "{uuid}"),
    }
    compared: list[BootRule] = []

    def counted(rule: BootRule, request: BootRequest) -> int | None:
        compared.append(rule)
        return matching(rule, request)

    matching = answers.matching
    monkeypatch.setattr(answers, "matching", counted)
    came = Counter[bool]()
    for _ in range(200):
        drawn = [{key: chosen.choice(values) for key, values in some.items()} for _ in range(chosen.randrange(1, 12))]
        every = [RuleInForce(at, BootRule.model_validate(rule), (_tftp(),)) for at, rule in enumerate(drawn, 1)]
        rules = BootRules(every)
        for _ in range(10):
            request = _anyRequest(chosen, macs, uuids)
            compared.clear()
            found = list(candidates(rules.near(request), request, _OWN))
            assert all(each.machines is None or _isNamed(each, request) for each in compared)
            assert found == list(candidates(every, request, _OWN))
            assert all(each.inForce.rule.machines is None or _isNamed(each.inForce.rule, request) for each in found)
            if not found:
                assert unmatched(rules, request) == unmatched(_AllRules(every), request)
            came[bool(found)] += 1
    assert min(came.values()) > 300


def _anyRequest(chosen: random.Random, macs: Sequence[str], uuids: Sequence[str]) -> BootRequest:
    """A request of one of these machines, or of another one, at port 67 or 4011."""
    options = {97: b"\0" + bytes.fromhex("33221100554477668899aabbccddee") + bytes([chosen.choice((0xFF, 0, 1))])}
    options |= {77: b"iPXE"} if chosen.random() < 0.3 else {}
    mac = chosen.choice((*macs, "52:00:00:00:00:00", "52" + 15 * ":54"))
    arch, leave = chosen.choice((0, 7, 9, 11)), () if chosen.random() < 0.7 else (97,)
    atBootPort = chosen.random() < 0.5
    datagram = (ask if atBootPort else discover)(mac, arch, options=options, leave=leave)
    local = Local(SERVER, 0, networks=(_link(),))
    found = read(dhcp.parse(datagram), atBootPort, (MACHINE, 68) if atBootPort else NOWHERE, local, Reach(_OWN))
    assert isinstance(found, BootRequest)
    return found


def _isNamed(rule: BootRule, request: BootRequest) -> bool:
    """Whether a rule names the machine of a request, as its pattern is written."""
    mac, uuid = request.machine.mac, request.machine.uuid
    return any(each == uuid or (mac is not None and fnmatchcase(mac, each)) for each in rule.machines or ())


def test_PX30_manyRules(monkeypatch: pytest.MonkeyPatch) -> None:
    """PX-30: of thousands of rules, each for a machine or a network of its own, few are compared with a request."""
    compared: list[BootRule] = []

    def counted(rule: BootRule, request: BootRequest) -> Iterator[str]:
        compared.append(rule)
        return misfits(rule, request)

    misfits = answers.misfits
    monkeypatch.setattr(answers, "misfits", counted)
    drawn: list[dict[str, Any]] = [{"machines": f"52:54:01:00:{at >> 8:02x}:{at & 255:02x}"} for at in range(1000)]
    drawn += [{"networks": f"10.{at}.0.0/16"} for at in range(66)]
    rules = BootRules(
        RuleInForce(number, BootRule.model_validate({"boot": "x", **each}), (_tftp(),))
        for number, each in enumerate(drawn, 1)
    )
    request = _request()
    assert (list(candidates(rules.near(request), request, _OWN)), compared) == ([], [])
    assert "the nearest is rule 1001, but for its networks" in unmatched(rules, request)
    assert len(compared) == 67


def test_PX08_notMeant(tmp_path: Path) -> None:
    """PX-08: where relays are not answered at all, and for a relay that cannot be one, there is no line."""
    for own, giaddr in (({}, "10.67.0.1"), ({"relays": True, "clients": ["10.66.0.0/24"]}, SERVER)):
        with ProxyStage(tmp_path, X64, own=own) as stage:
            stage.hear(discover(giaddr=giaddr), RELAY, ALL)
            assert (stage.told("unanswered"), len(stage.told("pxe-silent"))) == ([], 1)


def test_PX09_menu(tmp_path: Path) -> None:
    """PX-09: a menu names this server alone."""
    with ProxyStage(tmp_path, MENU) as stage:
        assert only(stage.replay("P-20")).datagram == vector("A-08")


def test_PX10_chosen(tmp_path: Path) -> None:
    """PX-10: what was chosen is given back with its file, to iPXE and to UEFI."""
    with ProxyStage(tmp_path, {**MENU, "arch": "bios"}, MENU_X64) as stage:
        assert stage.replay("P-38") == [Said(BOOT, (MACHINE, 68), vector("A-09"))]
        assert stage.replay("P-43") == [Said(BOOT, (MACHINE, 4011), vector("A-13"))]


def test_PX11_url(tmp_path: Path) -> None:
    """PX-11: iPXE is told the URL of another transport."""
    transports = {"mtftp": {"interface": SERVER, "files": {"boot.ipxe": "239.255.1.1:3001"}}}
    with ProxyStage(tmp_path, {**IPXE, "by": "mtftp"}, transports=transports) as stage:
        assert only(stage.replay("P-20")).datagram == vector("A-10")


def test_PX12_twoArchitectures(tmp_path: Path) -> None:
    """PX-12: a machine that names 9 and 7 is an x64."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.replay("Q-04")).datagram == vector("A-11")


def test_PX13_inform(tmp_path: Path) -> None:
    """PX-13: an INFORM at port 4011 is acknowledged like a REQUEST."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.replay("Q-05")).datagram == vector("A-12")


# Reading requests.


@pytest.mark.parametrize("each", vectors("proxydhcp", "user_class"))
def test_PX14_userClass(each: dict[str, Any]) -> None:
    """PX-14: iPXE is known by its user class in either form, and others are not taken for it."""
    assert pxe.isIpxe({77: bytes.fromhex(each["hex"])}) is each["ipxe"]
    assert pxe.isIpxe({77: bytes.fromhex(each["hex"]), 175: b""})


def test_PX14_counted(tmp_path: Path) -> None:
    """PX-14: a request with the class as RFC 3004 has it gets iPXE's file."""
    with ProxyStage(tmp_path, IPXE, X64) as stage:
        assert only(stage.replay("Q-06")).file == "boot.ipxe"


def test_PX14_ownClass(tmp_path: Path) -> None:
    """PX-14: an owner's own class is matched as it stands, in either form."""
    with ProxyStage(tmp_path, {"user-class": "Hall 3", "boot": "bootcode.bin"}, X64) as stage:
        for value, file in ((b"Hall 3", "bootcode.bin"), (b"\x06Hall 3", "bootcode.bin"), (b"Hall", "snponly.efi")):
            assert only(stage.hear(discover(xid=value[:4], options={77: value}), seconds=0.1)).file == file


#: iPXE that can fetch by HTTP, and iPXE that cannot.
HTTP, NO_HTTP = {175: b"\x13\1\1\x15\1\1"}, {175: b"\x13\1\0\x15\1\1"}
UUID = {97: b"\0\x33\x22\x11\x00\x55\x44\x77\x66" + bytes.fromhex("8899aabbccddeeff")}
NEAR, FAR = {"source": (MACHINE, 68)}, {"source": ("10.67.0.9", 68)}


@pytest.mark.parametrize(
    ("demand", "fits", "others"),
    [
        ({"lacks": ["http"], "ipxe": True}, {"options": NO_HTTP}, {"options": HTTP}),
        ({"machines": ["b8:27:eb:*"]}, {"mac": "b8:27:eb:00:00:01"}, {"mac": "52:54:00:27:eb:01"}),
        ({"machines": ["00112233-4455-6677-8899-aabbccddeeff"]}, {"options": UUID}, {}),
        ({"networks": "10.67.0.0/24"}, FAR, NEAR),
        ({"arch": "efi-x86"}, {"arch": 6}, {"arch": 7}),
    ],
)
def test_whatARuleDemands(tmp_path: Path, demand: dict[str, Any], fits: dict[str, Any], others: dict[str, Any]) -> None:
    """A rule is for the machines that it names alone; all others get what the next one says."""
    rules = ({**demand, "boot": "bootcode.bin"}, {"boot": "boot.ipxe"})
    own = {"clients": ["10.66.0.0/24", "10.67.0.0/24"]}
    for of, file in ((fits, "bootcode.bin"), (others, "boot.ipxe")):
        machine = {"source": (MACHINE, 68), **of}
        source = machine.pop("source")
        with ProxyStage(tmp_path, *rules, own=own) as stage:
            assert only(stage.hear(ask(**machine), source, BOOT)).file == file


def test_PX15_parts(tmp_path: Path) -> None:
    """PX-15: options in two parts are one (RFC 3396)."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.replay("Q-07")).file == "snponly.efi"


def test_PX16_overload(tmp_path: Path) -> None:
    """PX-16: options in the field of the file's name are read."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.replay("Q-08")).file == "snponly.efi"


@pytest.mark.parametrize("case", vectors("proxydhcp", "silence"))
def test_PX17_silence(tmp_path: Path, case: dict[str, Any]) -> None:
    """PX-17: not one octet is sent, whoever asks; and no fault is logged."""
    host, _, port = case["from"].rpartition(":")
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}, MENU) as stage:
        to = ALL if case["port"] == 67 else BOOT
        assert stage.hear(bytes.fromhex(case["hex"]), (host, int(port)), to, 2.0) == []


def test_PX17_aloud(tmp_path: Path) -> None:
    """PX-17: the line for a machine without an architecture comes once a minute; for others there is none."""
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}) as stage:
        for _ in range(3):
            stage.hear(vector("S-16"), seconds=10)
            stage.hear(vector("S-01"), seconds=10)
        (line,) = stage.told("unanswered")
        assert "architecture" in line["told"]


def test_PX18_httpBoot(tmp_path: Path) -> None:
    """PX-18: HTTP boot is never answered, not even where it says PXEClient, or other architectures as well."""
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}) as stage:
        assert stage.replay("P-66") == []
        assert stage.hear(discover(arch=16)) == []
        assert only(stage.hear(discover(options={93: b"\0\x10\0\7"}))).file == "boot.ipxe"


def test_PX19_uboot(tmp_path: Path) -> None:
    """PX-19: U-Boot's plain DHCP gets silence; its EFI step an answer, if there is a rule."""
    with ProxyStage(tmp_path, X64) as stage:
        assert stage.replay("P-49") == []
        assert stage.replay("P-50") == []
    with ProxyStage(tmp_path, {"arch": "efi-arm64", "boot": "snponly.efi"}) as stage:
        assert stage.replay("P-49") == []
        assert only(stage.replay("P-50")).file == "snponly.efi"


@pytest.mark.parametrize("id", ["P-04", "P-11"])
def test_PX20_requestTo67(tmp_path: Path, id: str) -> None:
    """PX-20: a REQUEST at port 67 is the DHCP server's."""
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}) as stage:
        assert stage.replay(id) == []


@pytest.mark.parametrize("type_", [None, *range(10), 13])
def test_PX20_typesByPort(tmp_path: Path, type_: int | None) -> None:
    """PX-20: port 67 answers a DISCOVER alone, and port 4011 a REQUEST and an INFORM: of all types of messages."""
    asked = discover(leave=[53]) if type_ is None else discover(options={53: bytes([type_])})
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}) as stage:
        for answer_, port in ((dhcp.OFFER, ALL), (dhcp.ACK, BOOT)):
            answered = type_ == dhcp.DISCOVER if port == ALL else type_ in (dhcp.REQUEST, dhcp.INFORM)
            said = stage.hear(asked, NOWHERE if port == ALL else (MACHINE, 68), port)
            assert [each.packet.messageType for each in said] == [answer_] * answered


REQUESTS = (
    "P-01",
    "P-06",
    "P-08",
    "P-13",
    "P-15",
    "P-20",
    "P-34",
    "P-38",
    "P-43",
    "Q-01",
    "Q-02",
    "Q-04",
    "Q-05",
    "Q-07",
)


@pytest.mark.parametrize("id", REQUESTS)
@pytest.mark.parametrize("rule", [{"boot": "boot.ipxe"}, MENU], ids=["file", "menu"])
def test_PX21_22_23_everyAnswer(tmp_path: Path, id: str, rule: dict[str, Any]) -> None:
    """PX-21 to PX-23: no answer hands out anything; each has what firmware asks for, and its flags."""
    asked = dhcp.parse(vector(id))
    with ProxyStage(tmp_path, rule) as stage:
        heard = stage.replay(id)
    if 43 in asked.options and "menu" not in rule:
        assert heard == []
        return
    said = only(heard)
    packet = said.packet
    assert (packet.op, packet.htype, packet.hlen, packet.xid, packet.chaddr) == (
        2,
        asked.htype,
        asked.hlen,
        asked.xid,
        asked.chaddr,
    )
    assert str(packet.yiaddr) == "0.0.0.0"
    assert not {1, 3, 6, 50, 51, 58, 59, 66, 67, 150} & packet.options.keys()
    assert packet.options[54] == packet.siaddr.packed == bytes([10, 66, 0, 2])
    assert packet.options[60] == b"PXEClient"
    assert packet.options[53] == (b"\2" if asked.messageType == 1 else b"\5")
    assert 300 <= len(said.datagram) <= 548
    assert packet.flags == (0x8000 if asked.messageType == 1 else asked.flags)
    assert list(packet.options) == [code for code in (53, 54, 60, 97, 43, 82) if code in packet.options]


def test_PX24_sendGuid(tmp_path: Path) -> None:
    """PX-24: firmware that puts its UUID in the place of the address gets all 16 octets back, and has no {mac}."""
    guid = bytes(range(16)).hex(":")
    with ProxyStage(tmp_path, {"boot": "{mac}/x"}, X64) as stage:
        packet = only(stage.hear(discover(guid))).packet
        assert (packet.chaddr, packet.hlen, packet.file) == (bytes(range(16)), 16, b"snponly.efi")


@pytest.mark.parametrize("value", [b"\0" + bytes(range(16)), b"\1", b"", None])
def test_PX25_machineId(tmp_path: Path, value: bytes | None) -> None:
    """PX-25: option 97 is copied, whatever its length; none where there was none."""
    with ProxyStage(tmp_path, X64) as stage:
        given = {} if value is None else {97: value}
        assert only(stage.hear(discover(options=given))).packet.options.get(97) == value


@pytest.mark.parametrize("each", vectors("proxydhcp", "machine_id"))
def test_PX25_uuid(each: dict[str, Any]) -> None:
    """PX-25: the UUID in option 97 has its first fields swapped; other forms are none."""
    assert pxe.machineUuid(bytes.fromhex(each["option97"])) == each["uuid"]


# Content, access, rules.


def test_PX26_missing(tmp_path: Path) -> None:
    """PX-26: a file that is not there is not offered; a line says so once a minute for each machine and name."""
    with ProxyStage(tmp_path, {"boot": "gone"}) as stage:
        for xid in range(5):
            assert stage.hear(discover(xid=bytes([0, 0, 1, xid])), seconds=5) == []
        stage.hear(discover("52:54:00:66:00:11"))
        first, second = stage.told("unanswered")
        line = first["log_format"].format(**first)
        assert line == "52:54:00:66:00:10 is not answered: gone: is not there"
        assert second["machine"] == "52:54:00:66:00:11"
        assert {each["reason"] for each in stage.told("pxe-silent")} == {"missing"}
        stage.network.advance(60)
        stage.hear(discover(xid=b"late"))
        assert len(stage.told("unanswered")) == 3


def test_PX27_comesAndGoes(tmp_path: Path) -> None:
    """PX-27: a file that appears is offered, one that goes is not, each within a second."""
    with ProxyStage(tmp_path, {"boot": "new"}) as stage:
        assert stage.hear(discover(xid=b"\0\0\0\1"), seconds=1.0) == []
        (stage.boot / "new").write_bytes(b"!")
        assert only(stage.hear(discover(xid=b"\0\0\0\2"), seconds=1.0)).file == "new"
        (stage.boot / "new").unlink()
        assert stage.hear(discover(xid=b"\0\0\0\3")) == []


@pytest.mark.parametrize("section", ["access", "content"])
def test_PX28_access(tmp_path: Path, section: str) -> None:
    """
    PX-28: a file is offered if anybody in the machine's network may have it, and acknowledged if that very address may.
    """
    # Neither holds the first address of the network; one holds the machine's.
    part = "10.66.0.64/26" if section == "access" else "10.66.0.128/26"

    def rules(networks: str) -> dict[str, Any]:
        if section == "access":
            return {"access": [{"deny": "10.66.0.100/30", "names": ["x"]}, {"allow": networks}]}
        return {"content": [{"directory": {"path": "boot", "networks": networks}}]}

    with ProxyStage(tmp_path, X64, more=rules("10.99.0.0/16")) as stage:
        assert stage.replay("P-08") == []
        assert stage.replay("P-13") == []
        reason = "access" if section == "access" else "missing"
        assert {each["reason"] for each in stage.told("pxe-silent")} == {reason}
    with ProxyStage(tmp_path, X64, more=rules(part)) as stage:
        assert only(stage.replay("P-08")).file == "snponly.efi"
        assert len(stage.replay("P-13")) == (section == "access")


def test_PX29_outside(tmp_path: Path) -> None:
    """PX-29: port 4011 answers nobody outside of clients, which are the interface's networks by default."""
    with ProxyStage(tmp_path, X64) as stage:
        assert stage.hear(vector("P-13"), ("10.99.0.5", 4011), BOOT) == []
        assert {each["reason"] for each in stage.told("pxe-silent")} == {"network"}
        (line,) = stage.told("unanswered")
        assert line["told"] == "its address, 10.99.0.5, is in none of the networks that are answered"
    with ProxyStage(tmp_path, X64, own={"clients": "10.99.0.0/24"}) as stage:
        assert only(stage.hear(vector("P-13"), ("10.99.0.5", 4011), BOOT)).to == ("10.99.0.5", 4011)
        assert stage.replay("P-13") == []
        assert stage.replay("P-08") == []


@pytest.mark.parametrize("host", [SERVER, "10.66.0.255", "239.1.2.3", "255.255.255.255", "0.0.0.0"])
@pytest.mark.parametrize("port", [4011, 67, 69, 0])
def test_PX29_reflection(tmp_path: Path, host: str, port: int) -> None:
    """PX-29: nothing is sent to a broadcast address, a group, this server or the port of another."""
    with ProxyStage(tmp_path, X64, own={"clients": "any"}) as stage:
        assert stage.hear(ask(), (host, port), BOOT) == []
        assert (stage.hear(ask(xid=b"\0\0\0\3"), (MACHINE, port), BOOT) == []) is (port != 4011)


def test_PX30_nextRule(tmp_path: Path) -> None:
    """PX-30: where the first rule's file is missing, the second that matches decides."""
    with ProxyStage(tmp_path, {"arch": "efi-x64", "boot": "gone"}, IPXE, X64) as stage:
        said = only(stage.replay("P-08"))
        assert said.datagram == vector("A-02")
        assert stage.told("offered")[0]["rule"] == 3


@pytest.mark.parametrize("each", vectors("proxydhcp", "names"))
def test_PX31_placeholders(tmp_path: Path, each: dict[str, Any]) -> None:
    """PX-31: placeholders stand for what is known of the machine; where it is not known, the next rule is asked."""
    name = each["file"] or "never"
    with ProxyStage(tmp_path, {"boot": each["rule"]}, {"boot": "bootcode.bin"}) as stage:
        (stage.boot / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.boot / name).write_bytes(b"!")
        assert only(stage.replay(each["request"])).file == (each["file"] or "bootcode.bin")


@pytest.mark.parametrize("option97", [b"\0" + b"\xff" * 16, bytes(17)])
def test_PX31_noUuid(tmp_path: Path, option97: bytes) -> None:
    """PX-31: a UUID that many machines have is none."""
    with ProxyStage(tmp_path, {"boot": "{uuid}"}, X64) as stage:
        for uuid in ("ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"):
            (stage.boot / uuid).write_bytes(b"!")
        assert only(stage.hear(discover(options={97: option97}))).file == "snponly.efi"


def test_PX31_address(tmp_path: Path) -> None:
    """PX-31: {ip} is known at port 4011 only, and refused where the offer has to name the file."""
    rule = {"arch": "efi-x64", "answer": "ask", "boot": "{ip}.efi"}
    with ProxyStage(tmp_path, rule, X64) as stage:
        (stage.boot / f"{MACHINE}.efi").write_bytes(b"!")
        assert only(stage.replay("P-08")).file == "snponly.efi"
        assert only(stage.replay("P-13")).file == f"{MACHINE}.efi"
    assert "rules[0].boot: {ip} is known" in faults(tmp_path, {"boot": "{ip}.efi"})[0]


def test_PX32_x64(tmp_path: Path) -> None:
    """PX-32: efi-x64 is 7 and 9; the number 9 is 9."""
    with ProxyStage(tmp_path, X64) as stage:
        assert len(stage.hear(discover(arch=7))) == 1
        assert len(stage.hear(discover(arch=9, xid=b"\0\0\0\2"))) == 1
    with ProxyStage(tmp_path, {"arch": 9, "boot": "snponly.efi"}) as stage:
        assert stage.hear(discover(arch=7)) == []
        assert len(stage.hear(discover(arch=9, xid=b"\0\0\0\2"))) == 1
    listed = json.loads((FOLDER / "proxydhcp.json").read_text())["architectures"]
    assert {str(number): word for number, word in pxe.ARCHITECTURES.items()} == listed


def test_PX33_classOnly(tmp_path: Path) -> None:
    """PX-33: without option 93 the vendor class says the architecture."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.hear(discover(leave=[93]))).file == "snponly.efi"


def test_PX34_bareClass(tmp_path: Path) -> None:
    """PX-34: the bare class with option 93 = 0, as iPXE sends after a menu, is a BIOS."""
    with ProxyStage(tmp_path, {**MENU, "arch": "bios"}) as stage:
        assert only(stage.replay("P-38")).datagram == vector("A-09")


def test_PX35_longestName(tmp_path: Path) -> None:
    """PX-35: a name of 127 octets is sent with its zero, one of 128 refused; a URL that is longer never matches."""
    longest = "d/" + "n" * (LONGEST_NAME - 2)
    with ProxyStage(tmp_path, {"boot": longest}) as stage:
        (stage.boot / "d").mkdir()
        (stage.boot / longest).write_bytes(b"!")
        datagram = only(stage.hear(discover())).datagram
        assert datagram[108:236] == longest.encode() + b"\0"
    (fault,) = faults(tmp_path, {"boot": longest + "n"})
    assert "rules[0].boot: " in fault
    assert "128 octets" in fault
    # A URL may be too long where the name is not.
    rule = RuleInForce(1, BootRule(boot="n" * 120, ipxe=True), (_tftp(port=6969),))
    assert list(candidates([rule], _request(ipxe=True), _OWN)) == []


def _tftp(**options: Any) -> Any:
    return COLLECTED.transports["tftp"].options(interface=SERVER, **options)


_OWN = dhcp.IPv4Address(SERVER)


def _request(ipxe: bool = False, arch: int = 7) -> BootRequest:
    datagram = discover(arch=arch, options={77: b"iPXE"} if ipxe else {})
    local = Local(SERVER, 67, networks=(_link(),))
    found = read(dhcp.parse(datagram), False, NOWHERE, local, Reach(_OWN))
    assert isinstance(found, BootRequest)
    return found


def _link() -> IPv4Network:
    return IPv4Network("10.66.0.0/24")


def test_PX36_longestMenu(tmp_path: Path) -> None:
    """PX-36: an option 43 of 255 octets is sent; with one more the file is refused, with the sum."""

    def menu(length: int) -> dict[str, Any]:
        items = [{"text": "x" * length, "boot": "boot.ipxe"}, {"text": "y" * 100, "boot": "undionly.kpxe"}]
        return {"menu": {"prompt": "p", "items": items}}

    # 3 control, 2 + 14 servers, 2 + 6 + 100 + length menu, 2 + 2 prompt, 1 end.
    fits = 255 - (3 + 16 + 108 + 4 + 1)
    with ProxyStage(tmp_path, menu(fits)) as stage:
        assert len(only(stage.hear(discover())).packet.options[43]) == 255
    (fault,) = faults(tmp_path, menu(fits + 1))
    assert "transports.proxydhcp.rules[0].menu: option 43 would have 256 octets" in fault


def test_PX37_echoed() -> None:
    """PX-37: the octets of an item are compared and given back as they came, never read as a number."""
    menu = Menu.model_validate({"items": [{"text": str(n), "boot": "boot.ipxe"} for n in range(130)]})
    rule = RuleInForce(1, BootRule(menu=menu), (_tftp(),))
    assert itemType(menu, 0) == b"\x80\x00"
    assert itemType(menu, 128) == b"\x80\x80"
    for octets, place in ((b"\x80\0\0\0", 0), (b"\x80\x01\0\7", 1), (b"\x80\x80\0\0", 128), (b"\0\x80\0\0", None)):
        packet = dhcp.parse(ask(options={43: pxe.buildSuboptions([(71, octets)])}))
        found = read(packet, True, (MACHINE, 4011), Local(SERVER, 4011, networks=(_link(),)), Reach(_OWN))
        assert isinstance(found, BootRequest)
        assert found.item == octets
        chosen = [candidate.names for candidate in candidates([rule], found, _OWN)]
        assert [names.index("boot.ipxe") for names in chosen] == ([] if place is None else [place])


def test_PX37_layer(tmp_path: Path) -> None:
    """PX-37: the layer is given back as well."""
    with ProxyStage(tmp_path, MENU) as stage:
        item = b"\x80\x01\0\x2a"
        packet = only(stage.request(ask(options={43: b"\x47\x04" + item + b"\xff"}))).packet
        assert (packet.options[43], packet.file) == (b"\x47\x04" + item + b"\xff", b"undionly.kpxe")


def test_PX38_everyTypeHasAServer(tmp_path: Path) -> None:
    """PX-38: every type of the menu is in the list of servers, that of the local disk, too."""
    items = [{"text": "A", "boot": "boot.ipxe"}, {"text": "Local disk"}, {"text": "B", "boot": "undionly.kpxe"}]
    with ProxyStage(tmp_path, {"menu": {"items": items}}) as stage:
        vendor = pxe.parseSuboptions(only(stage.hear(discover())).packet.options[43])
        shown, at = [], 0
        while at < len(vendor[9]):
            shown.append(vendor[9][at : at + 2])
            at += 3 + vendor[9][at + 2]
        assert shown == [b"\x80\0", b"\0\0", b"\x80\2"]
        assert [vendor[8][at : at + 2] for at in range(0, len(vendor[8]), 7)] == shown


@pytest.mark.parametrize(("wait", "octet"), [("0", 0), ("5 s", 5), (None, 255)])
def test_PX38_waiting(tmp_path: Path, wait: str | None, octet: int) -> None:
    """PX-38: a menu waits as long as it is told: not at all, for seconds, for ever."""
    menu = {"menu": {**MENU["menu"], "wait": wait}}
    with ProxyStage(tmp_path, menu) as stage:
        assert pxe.parseSuboptions(only(stage.hear(discover())).packet.options[43])[10][0] == octet


def test_PX39_oneItem(tmp_path: Path) -> None:
    """PX-39: a menu that leaves no choice is not shown: UEFI asks for its one file, BIOS is told it."""
    items = [{"text": "A", "boot": "snponly.efi"}, {"text": "B", "boot": "gone"}]
    with ProxyStage(tmp_path, {"menu": {"items": items}}) as stage:
        packet = only(stage.replay("P-08")).packet
        assert (packet.file, 43 in packet.options) == (b"snponly.efi", False)
        assert only(stage.replay("P-13")).file == "snponly.efi"
        assert only(stage.replay("Q-01")).packet.options[43] == b"\x06\x01\x08\xff"
        (stage.boot / "gone").write_bytes(b"!")
        stage.network.advance(1)
        assert 9 in pxe.parseSuboptions(only(stage.hear(discover(xid=b"\0\0\0\7"))).packet.options[43])
    with ProxyStage(
        tmp_path, {"menu": {"items": [{"text": "A", "boot": "gone-too"}, {"text": "Local"}]}}, X64
    ) as stage:
        assert only(stage.hear(discover())).file == "snponly.efi"


def test_PX40_mtftpForUefi(tmp_path: Path) -> None:
    """PX-40: MTFTP alone is refused for UEFI; its sub-options go neither to UEFI nor to iPXE."""
    (fault,) = faults(tmp_path, {"arch": "efi-x64", "boot": "undionly.kpxe", "by": "mtftp"}, transports=MTFTP)
    assert "x.yaml:19: transports.proxydhcp.rules[0].by: firmware fetches undionly.kpxe by a tftp at port 69" in fault
    with ProxyStage(tmp_path, {"boot": "undionly.kpxe", "by": ["mtftp", "tftp"]}, transports=MTFTP) as stage:
        for number, (arch, given) in enumerate([(7, {}), (9, {}), (6, {}), (0, {77: b"iPXE"})]):
            packet = only(stage.hear(discover(arch=arch, xid=bytes([0, 0, 1, number]), options=given))).packet
            assert not {1, 2, 3, 4, 5} & pxe.parseSuboptions(packet.option(43)).keys()


def test_PX41_whole(tmp_path: Path) -> None:
    """PX-41: all five sub-options of MTFTP are there, none is 0, and sub-option 6 follows."""
    rule = {"arch": "bios", "boot": "undionly.kpxe", "by": ["mtftp", "tftp"]}
    with ProxyStage(tmp_path, rule, transports=MTFTP) as stage:
        for datagram in (vector("Q-01"), ask(arch=0)):
            said = stage.hear(datagram) if datagram == vector("Q-01") else stage.request(datagram)
            vendor = pxe.parseSuboptions(only(said).packet.options[43])
            assert list(vendor) == [1, 2, 3, 4, 5, 6]
            assert all(map(any, vendor.values()))


def test_PX42_reloaded(tmp_path: Path) -> None:
    """PX-42: after a reload the next offer has the new group and port."""
    rule = {"arch": "bios", "boot": "undionly.kpxe", "by": ["mtftp", "tftp"]}
    with ProxyStage(tmp_path, rule, transports=MTFTP) as stage:
        assert only(stage.replay("Q-01")).datagram == vector("A-05")
        mtftp = {"interface": SERVER, "port": 1760, "files": {"undionly.kpxe": "239.255.1.2:3002"}}
        stage.write(rule, mtftp=mtftp)
        assert result(stage.server.reread()) == ()
        stage.network.advance(1)
        vendor = pxe.parseSuboptions(only(stage.replay("Q-01")).packet.options[43])
        assert (vendor[1], vendor[2], vendor[3]) == (bytes([239, 255, 1, 2]), b"\xba\x0b", b"\xe0\x06")


SB = {"sb": {"use": "sbroadcast", "interface": SERVER, "subnets": ["10.66.0.0/24"], "port": 70}}


@pytest.mark.parametrize(
    ("by", "transports", "text"),
    [
        ("nobody", TFTP, "rules[0].by: no transport is called nobody"),
        ("far", {**TFTP, "far": {"use": "tftp", "interface": "10.66.0.3"}}, "rules[0].by: far is not at 10.66.0.2"),
        ("sb", {**TFTP, **SB}, "rules[0].by: no boot loader can fetch from sb"),
        (["tftp", "sb"], {**TFTP, **SB}, "rules[0].by: no boot loader can fetch from sb"),
        ("proxydhcp", TFTP, "rules[0].by: no transport is called proxydhcp"),
        (None, SB, "rules[0]: no tftp is at 10.66.0.2: say by which transport"),
    ],
)
def test_PX43_by(tmp_path: Path, by: Any, transports: dict[str, Any], text: str) -> None:
    """PX-43: a transport that is gone, at another address, or that no boot loader speaks is refused, with its line."""
    rule = X64 if by is None else {**X64, "by": by}
    found = faults(tmp_path, rule, transports=transports, addresses=("10.66.0.2/24", "10.66.0.3/24"))
    (fault,) = [each for each in found if "proxydhcp" in each]
    assert f": transports.proxydhcp.{text}" in fault
    line = int(fault.partition("x.yaml:")[2].partition(":")[0])
    written = (tmp_path / "x.yaml").read_text().splitlines()[line - 1]
    assert ("by:" in written) if by is not None else ("- arch:" in written)


def test_PX44_otherPort(tmp_path: Path) -> None:
    """PX-44: firmware knows port 69 only, which is refused; iPXE gets a URL with the port."""
    other = {"tftp": {"interface": SERVER, "port": 6969}}
    (fault,) = faults(tmp_path, X64, transports=other)
    assert "rules[0].by: firmware fetches snponly.efi by a tftp at port 69 only" in fault
    with ProxyStage(tmp_path, IPXE, transports=other) as stage:
        assert only(stage.replay("P-20")).file == "tftp://10.66.0.2:6969/boot.ipxe"


SLAM = {"slam": {"interface": SERVER, "file": "boot.ipxe"}}


def test_PX44_urls(tmp_path: Path) -> None:
    """PX-44: each transport has its scheme; SLAM's is told only to an iPXE that says that it has it."""
    tftm = {"multicast": {"interface": SERVER, "port": 69}, **TFTP}
    with ProxyStage(tmp_path, {**IPXE, "by": "multicast"}, transports=tftm) as stage:
        assert only(stage.replay("P-20")).file == "tftm://10.66.0.2/boot.ipxe"
    with ProxyStage(tmp_path, {**IPXE, "by": ["slam", "tftp"]}, transports={**SLAM, **TFTP}) as stage:
        assert only(stage.replay("P-20")).file == "boot.ipxe"
        able = discover(options={77: b"iPXE", 175: b"\x1a\1\1"})
        assert only(stage.hear(able)).file == "x-slam://10.66.0.2:10000"
    (fault,) = faults(tmp_path, {**IPXE, "boot": "bootcode.bin", "by": "slam"}, transports=SLAM)
    assert "rules[0].by: iPXE cannot fetch bootcode.bin: its one file is boot.ipxe" in fault


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({"interface": "any"}, "interface: one IPv4 address of this machine"),
        ({"interface": None}, "interface"),
        ({"interface": "fd00::1"}, "interface: one IPv4 address of this machine"),
        ({"interface": "10.66.0.9"}, "interface: no interface of this machine has 10.66.0.9"),
    ],
)
def test_PX45_interface(tmp_path: Path, own: dict[str, Any], text: str) -> None:
    """PX-45: a proxy is never everywhere, and its address is this machine's."""
    transports = {"tftp": {"interface": "any"}}
    assert any(f"transports.proxydhcp.{text}" in each for each in faults(tmp_path, X64, own=own, transports=transports))


@pytest.mark.parametrize(
    ("rules", "loops"),
    [
        ([BIOS | {"ipxe": None}], 1),
        ([BIOS], 0),
        ([IPXE, {"boot": "snponly.efi"}], 0),
        ([{**IPXE, "arch": "efi-x64"}, {"boot": "snponly.efi"}], 1),
        ([{"ipxe": True, "boot": "undionly.kpxe"}], 1),
        ([{"ipxe": True, "lacks": ["http"], "boot": "undionly.kpxe"}, IPXE], 0),
        ([{"boot": "boot.ipxe"}], 0),
    ],
)
def test_PX46_loop(tmp_path: Path, rules: list[dict[str, Any]], loops: int) -> None:
    """PX-46: rules by which iPXE is told to load iPXE are warned of."""
    found = [each for each in warnings(tmp_path, *rules) if "for ever" in each]
    assert len(found) == loops, found
    assert all("x.yaml:" in each and "transports.proxydhcp.rules[" in each for each in found)


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([{"boot": "gone"}], "rules[0].boot: gone is not there"),
        ([{"boot": "grubx64.efi"}], "GRUB asks the DHCP server for its files"),
        ([{"boot": "shimx64.efi"}], "shim loads grubx64.efi"),
        (
            [X64, X64 | {"boot": "boot.ipxe"}],
            "rules[1]: never reached while snponly.efi is there: rule 1 matches before",
        ),
        (
            [X64 | {"machines": ["52:54:00:*", "b8:27:eb:00:00:01"]}, X64 | {"machines": "52:54:00:66:00:10"}],
            "rules[1]: never reached while snponly.efi is there: rule 1 matches before",
        ),
        (
            [
                X64 | {"machines": ["52:54:00:66:00:10", "00112233-4455-6677-8899-aabbccddeeff"]},
                X64 | {"machines": ["00112233-4455-6677-8899-aabbccddeeff", "52:54:00:66:00:10"]},
            ],
            "rules[1]: never reached while snponly.efi is there: rule 1 matches before",
        ),
        (
            [{"menu": {"items": [*MENU["menu"]["items"], {"text": "x", "boot": "y"}]}}],
            "y is not there, so its item is left out",
        ),
        (
            [X64 | {"answer": "raspberry-pi"}],
            "rules[0].answer: the ROM of a Raspberry Pi is no iPXE, and says arch: bios",
        ),
        ([IPXE | {"answer": "raspberry-pi"}], "rules[0].answer: the ROM of a Raspberry Pi is no iPXE"),
        ([X64 | {"networks": "10.66.0.0/25"}], "rules[0].networks: 10.66.0.0/25 is a part of 10.66.0.0/24"),
        ([X64 | {"networks": ["10.66.0.0/24", "10.67.0.0/24"]}], "nobody in 10.67.0.0/24 is answered"),
        ([MENU | {"menu": {"items": [{"text": "x" * 71, "boot": "boot.ipxe"}, {"text": "y"}]}}], "EDK II shows 70"),
    ],
)
def test_PX46_others(tmp_path: Path, rules: list[dict[str, Any]], text: str) -> None:
    """PX-46: castd check warns of what is allowed and hardly meant, with file, line and key."""
    (tmp_path / "boot").mkdir()
    for name in ("shimx64.efi", "grubx64.efi") if "GRUB" in text else ("shimx64.efi",):
        (tmp_path / "boot" / name).write_bytes(b"!")
    assert any(text in each and "x.yaml:" in each for each in warnings(tmp_path, *rules))


@pytest.mark.parametrize(
    ("rule", "own", "told"),
    [
        (IPXE | {"by": []}, {}, "rules[0].by: an empty list is no transport"),
        (IPXE | {"networks": "::/0"}, {}, "rules[0].networks: no machine is in IPv6 networks alone"),
        (IPXE | {"networks": ["::/0", "10.66.0.0/24"]}, {}, ""),
        (IPXE, {"clients": ["fd00::/8"]}, "clients: no machine is in IPv6 networks alone"),
        ({"boot": "tftp://10.66.0.2/boot.ipxe"}, {}, "rules[0].boot: name a file of content:, and no URL"),
        ({"menu": {"items": [{"text": "disk"}]}}, {}, "rules[0].menu: items: at least one needs boot"),
        ({"menu": {**MENU["menu"], "wait": "500 ms"}}, {}, "menu.wait: 0.5 s: ROMs count whole seconds, so write 1 s"),
        ({"menu": {**MENU["menu"], "wait": "2.6 s"}}, {}, "menu.wait: 2.6 s: ROMs count whole seconds, so write 3 s"),
        ({"menu": {**MENU["menu"], "wait": "2000 ms"}}, {}, ""),
    ],
)
def test_PX46_inVain(tmp_path: Path, rule: dict[str, Any], own: dict[str, Any], told: str) -> None:
    """PX-46: a rule or a network by which no machine could ever be answered is refused, with what would be right."""
    found = faults(tmp_path, rule, own=own)
    assert len(found) == bool(told)
    assert told in "".join(found)


def test_PX46_missing(tmp_path: Path) -> None:
    """PX-46: a file counts as missing only if no client that is answered gets it, and no machine may have its own."""
    (tmp_path / "t.j2").write_text("{{ mac }}")
    (tmp_path / "pc").mkdir()
    template = {"template": {"file": "t.j2", "names": ["made.ipxe", "{mac}/shimx64.efi"]}}

    def told(*content: Any, own: Any = None) -> list[str]:
        rules = [{"boot": name, "ipxe": True} for name in ("boot.ipxe", "made.ipxe", "pc/own.ipxe", "gone.ipxe")]
        found = warnings(tmp_path, *rules, more={"content": content}, own=own)
        return [each.split()[2] for each in found if "is not there" in each]

    for networks, missing in (("10.66.0.0/25", []), ("10.66.0.128/25", []), ("10.67.0.0/24", ["boot.ipxe"])):
        (name,) = missing or [""]
        folder = {"directory": {"path": "boot", "networks": networks}}
        assert told(folder) == [*filter(None, [name]), "made.ipxe", "pc/own.ipxe", "gone.ipxe"]
        assert told(folder, template) == [*filter(None, [name]), "pc/own.ipxe", "gone.ipxe"]
    assert told(folder, own=RELAYED) == ["made.ipxe", "pc/own.ipxe", "gone.ipxe"]
    machines = {"directory": {"path": "pc/{mac}", "under": "pc"}}
    assert told(machines) == ["boot.ipxe", "made.ipxe", "gone.ipxe"]
    assert told({"directory": {"path": "pc/{mac}"}}) == []
    # An unreadable file is none that a machine gets.
    (tmp_path / "boot" / "made.ipxe").mkdir()
    assert told({"directory": {"path": "boot"}}) == ["made.ipxe", "pc/own.ipxe", "gone.ipxe"]


@pytest.mark.parametrize(
    ("later", "own", "warned"),
    [
        ([], {}, True),
        ([], {"port-67": False}, False),
        ([X64], {}, False),
        ([{"boot": "boot.ipxe"}], {}, False),
        ([{"arch": "bios", "boot": "boot.ipxe"}], {}, True),
        ([X64 | {"answer": "direct"}], {}, True),
        ([IPXE, IPXE | {"answer": "ask"}], {}, True),
        ([MENU_X64], {}, False),
        ([X64 | {"boot": "{ip}/{mac}", "answer": "ask"}], {}, True),
    ],
)
def test_PX46_byAddress(tmp_path: Path, later: list[Any], own: dict[str, Any], warned: bool) -> None:
    """PX-46: a file named by an address is asked for at port 4011; it takes another rule to send machines there."""
    rule = {"arch": "efi-x64", "ipxe": False, "answer": "ask", "boot": "{ip}.efi"}
    told = [each for each in warnings(tmp_path, rule, *later, own=own) if "{ip} is not known when" in each]
    assert (["rules[0].boot: {ip}" in each for each in told[:1]], len(told) > 0) == ([True] * warned, warned)


def test_PX46_raspberry(tmp_path: Path) -> None:
    """PX-46: nothing is said of the usual rules for Raspberry Pis."""
    rule = {"answer": "raspberry-pi", "machines": "b8:27:eb:*", "boot": "bootcode.bin"}
    assert warnings(tmp_path, rule, rule | {"machines": "dc:a6:32:*", "arch": ["bios", 41], "ipxe": False}) == []


def test_PX46_lineOfTheRule(tmp_path: Path) -> None:
    """PX-46: what is said of a key that a rule leaves out has the line of the rule, among however many."""
    (fault,) = faults(tmp_path, IPXE, X64, transports={"tftp": {"interface": SERVER, "port": 6969}})
    assert "x.yaml:16: transports.proxydhcp.rules[1].by: firmware fetches snponly.efi by a tftp at port 69" in fault


def test_PX46_unreached() -> None:
    """PX-46: the rule that is named is the first that matches all machines of a later one, whatever rules there are."""
    chosen = random.Random(46)
    some: dict[str, Sequence[Any]] = {
        "networks": ("any", "10.0.0.0/8", "10.1.0.0/16", ["10.1.0.0/16", "10.2.0.0/24"], "10.2.0.0/24"),
        "machines": (None, None, "52:54:00:66:00:10", "52:54:*", ["52:54:00:66:00:10", "52:54:00:66:*"], ["b8:*", "*"]),
        "arch": (None, "efi-x64", ["efi-x64", "bios"]),
    }
    found = Counter[bool]()
    for _ in range(30):
        earlier, rules = checks._Earlier(), list[RuleInForce]()
        for number in range(1, 8):
            drawn = {key: chosen.choice(values) for key, values in some.items()}
            new = RuleInForce(number, BootRule.model_validate({"boot": "x", **drawn}), ())
            covering = [each for each in rules if checks._covers(each.rule, new.rule)]
            near = [each for each in earlier.near(new.rule) if checks._covers(each.rule, new.rule)]
            assert near[:1] == covering[:1]
            found[bool(near)] += 1
            rules.append(new)
            earlier.add(new)
    assert min(found.values()) > 30


@pytest.mark.parametrize(
    ("earlier", "later", "all_"),
    [
        ("52:54:00:66:00:10", "52:54:00:66:00:10", True),
        ("52:54:00:*", "52:54:00:66:00:10", True),
        ("52:54:00:*", "52:54:*", False),
        ("*", "52:54:*", True),
        ("*", "*", True),
        ("*", "00112233-4455-6677-8899-aabbccddeeff", False),
        (["52:*", "b8:*"], ["b8:27:*", "52:54:00:66:00:10"], True),
        (["52:*", "b8:*"], ["b8:27:*", "00:54:00:66:00:10"], False),
        (None, "52:*", True),
        ("*", None, False),
    ],
)
def test_PX46_machines(earlier: Any, later: Any, all_: bool) -> None:
    """PX-46: a rule is never reached if an earlier one names each of its machines, alone or by their beginning."""
    rules = [BootRule.model_validate({"boot": "x", "machines": each}) for each in (earlier, later)]
    assert checks._covers(*rules) is all_


def test_PX46_manyRules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PX-46: of hundreds of rules, each for a machine or a network, none is compared with all others."""
    compared: list[BootRule] = []

    def counted(earlier: BootRule, rule: BootRule) -> bool:
        compared.append(rule)
        return covers(earlier, rule)

    covers = checks._covers
    monkeypatch.setattr(checks, "_covers", counted)
    machines = [{"machines": f"52:54:00:66:{at >> 8:02x}:{at & 255:02x}", "boot": "boot.ipxe"} for at in range(300)]
    networks = [{"networks": f"10.{at}.0.0/16", "boot": "boot.ipxe"} for at in range(200)]
    assert not [each for each in warnings(tmp_path, *machines, *networks) if "never reached" in each]
    assert len(compared) <= len(networks)


def test_PX46_forbidden(tmp_path: Path) -> None:
    """PX-46: a file that the access rules give to none of the clients is warned of."""
    more = {"access": [{"allow": "10.66.0.0/24", "names": ["*.ipxe"]}]}
    assert any("give snponly.efi to none" in each for each in warnings(tmp_path, X64, more=more))
    assert not any("to none" in each for each in warnings(tmp_path, IPXE, more=more))


def test_PX46_relays(tmp_path: Path) -> None:
    """PX-46: relays that clients leaves out are warned of."""
    text = "relays: no relay of another network is answered"
    assert any(text in each for each in warnings(tmp_path, IPXE, own={"relays": True}))
    assert not any(text in each for each in warnings(tmp_path, IPXE, own=RELAYED))


def test_PX46_networksOfNobody(tmp_path: Path) -> None:
    """
    PX-46: a network of clients that no rule is for is warned of, and one that only relays reach, without relays; and
    the interface's own, if clients leaves it out.
    """
    here = {**IPXE, "networks": "10.66.0.0/24"}
    unruled, unheard = "clients: no rule is for machines in 10.67.0.0/24", "with relays: true"
    assert [unruled in each for each in warnings(tmp_path, here, own=RELAYED)] == [True]
    assert warnings(tmp_path, here, {**BIOS, "networks": "10.67.0.0/16"}, own=RELAYED) == []
    deaf = {**RELAYED, "relays": False}
    assert [unheard in each for each in warnings(tmp_path, IPXE, own=deaf)] == [True]
    assert warnings(tmp_path, IPXE, own={**deaf, "port-67": False}) == []
    far = {"relays": True, "clients": ["10.67.0.0/24"]}
    unnamed = "clients: machines in 10.66.0.0/24, the interface's own network, are not answered"
    assert [unnamed in each for each in warnings(tmp_path, IPXE, own=far)] == [True]
    assert warnings(tmp_path, IPXE, own={**far, "clients": ["10.66.0.128/25", "10.67.0.0/24"]}) == []


# Limits.


def test_PX47_identical(tmp_path: Path) -> None:
    """PX-47: fifty identical datagrams within 50 ms have one answer; later it is answered again."""
    with ProxyStage(tmp_path, X64) as stage:
        for _ in range(50):
            stage.send(vector("P-08"))
            stage.network.advance(0.00098)
        assert len(stage.said()) == 1
        stage.network.advance(0.002)
        assert len(stage.hear(vector("P-08"))) == 1


def test_PX48_oneMachine(tmp_path: Path) -> None:
    """PX-48: one machine gets at most eight answers in four seconds, whatever it sends."""
    with ProxyStage(tmp_path, X64) as stage:
        for number in range(100):
            stage.send(discover(xid=bytes([1, 0, 0, number])))
            stage.network.advance(0.01)
        stage.network.advance(2.9)
        assert len(stage.said()) == 8
        assert len(stage.hear(discover("52:54:00:66:00:11"))) == 1
        stage.network.advance(1)
        assert len(stage.hear(discover(xid=b"\2\0\0\0"))) == 1
        assert {each["reason"] for each in stage.told("pxe-silent")} == {"limit"}


@pytest.mark.slow
def test_PX49_allMachines(tmp_path: Path) -> None:
    """PX-49: of a thousand machines in a second 200 are answered, and nobody later than after a tenth of a second."""
    with ProxyStage(tmp_path, X64) as stage:
        asked: dict[bytes, float] = {}
        for number in range(1000):
            datagram = discover(f"52:54:00:66:{number >> 8:02x}:{number & 255:02x}")
            asked[datagram[28:44]] = stage.network.seconds()
            stage.send(datagram)
            stage.network.advance(0.001)
        assert 190 <= len(stage.said()) <= 200
        stage.network.advance(5)
        capture = stage.network.capture or []
        answers = [each for each in capture if each.source == (SERVER, 67)]
        assert len(answers) <= 300
        late = [each.time - asked[each.datagram[28:44]] for each in answers]
        assert max(late) <= 0.11
        inOneSecond = [sum(first.time <= each.time < first.time + 1 for each in answers) for first in answers]
        assert max(inOneSecond) <= 200


@pytest.mark.fuzz
@pytest.mark.slow
def test_PX50_bounded(tmp_path: Path) -> None:
    """PX-50: a million invented machines leave no more behind than some thousands, in memory and in the log."""
    chance = random.Random(1)
    with ProxyStage(tmp_path, {"boot": "gone"}, X64) as stage:
        port = next(each for each in stage.host.openPorts() if each.address[1] == 67)
        proxy, local, lines = stage.service, port.locals[SERVER], 0
        at = stage.service.ports[0]
        base = discover()
        stage.network.capture = None
        for number in range(int(os.environ.get("CASTD_FUZZ", "20000"))):
            datagram = base[:4] + chance.randbytes(4) + base[8:28] + chance.randbytes(6) + base[34:]
            proxy.datagramFrom(at, datagram, NOWHERE, local)
            if number % 1000 == 0:
                stage.network.advance(1)
                lines += sum(each["log_level"] is not LogLevel.debug for each in stage.events)
                stage.events.clear()
        memory = proxy._memory
        # Two for each answer, of which there are 200 a second.
        assert lines <= 400 * stage.network.seconds()
        assert memory.limits.remembered <= MOST_MACHINES
        assert len(memory.missing) <= MOST_REFUSALS
        assert len(memory.awaited) <= 1024


@pytest.mark.slow
def test_PX50_lines(tmp_path: Path) -> None:
    """PX-50: no line is written for machines beyond the limits of the answers."""
    with ProxyStage(tmp_path, {"boot": "gone"}) as stage:
        for number in range(3000):
            stage.send(discover(f"52:54:00:66:{number >> 8:02x}:{number & 255:02x}"))
        stage.network.advance(0.5)
        assert len(stage.told("unanswered")) <= 200


_KNOWN = [vector(id) for id in ("P-08", "P-13", "P-20", "P-34", "P-38", "Q-01", "Q-03", "Q-06", "Q-07", "Q-08")]


def mutants() -> st.SearchStrategy[bytes]:
    """Datagrams: anything, and recorded ones with a few octets changed or the end cut off."""
    changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5)
    return st.one_of(
        st.binary(max_size=1500),
        st.builds(_changed, st.sampled_from(_KNOWN), changes, st.integers(200, 500)),
    )


def _changed(datagram: bytes, changes: list[tuple[int, int]], end: int) -> bytes:
    octets = bytearray(datagram)
    for at, value in changes:
        octets[at % len(octets)] = value
    return bytes(octets[:end])


_LOCAL, _REACH = Local(SERVER, 67, networks=(_link(),)), Reach(_OWN, relays=True)
_RULES = [
    RuleInForce(number, BootRule.model_validate(rule), (_tftp(),))
    for number, rule in enumerate((MENU, {"boot": "{mac}{uuid}"}), 1)
]


def judged(datagram: bytes, atBootPort: bool) -> str:
    """Read a datagram, and answer it.  -> what came of it: C{unreadable}, C{silence}, C{nothing}, C{answered}."""
    try:
        packet = dhcp.parse(datagram)
        request = read(packet, atBootPort, (MACHINE, 68) if atBootPort else NOWHERE, _LOCAL, _REACH)
    except WireError:
        return "unreadable"
    if isinstance(request, Silence):
        assert request.reason in REASONS
        return "silence"
    came = "nothing"
    for candidate in candidates(_RULES, request, _OWN):
        said = answer(request, candidate, candidate.wanted, _OWN, None)
        if said is not None:
            assert 300 <= len(said.datagram) <= 1472
            sent = dhcp.parse(said.datagram)
            assert (sent.op, sent.chaddr, str(sent.yiaddr)) == (2, packet.chaddr, "0.0.0.0")
            came = "answered"
    return came


@pytest.mark.slow
@given(mutants(), st.booleans())
@settings(max_examples=600, deadline=None)
def test_PX51_anything(datagram: bytes, atBootPort: bool) -> None:
    """PX-51: whatever comes is unreadable, not answered or answered, and an answer is one that may be sent."""
    judged(datagram, atBootPort)


@pytest.mark.fuzz
@pytest.mark.slow
def test_PX51_hunt() -> None:
    """PX-51: the same for mutations of all that was recorded, as many as C{CASTD_FUZZ} says."""
    seeds, came = SEEDS["proxydhcp"], Counter[str]()
    for seed, datagrams in rounds():
        chance = random.Random(seed)
        for _ in range(datagrams):
            came[judged(mutated(chance, chance.choice(seeds), seeds), chance.random() < 0.5)] += 1
    assert came.keys() >= {"unreadable", "silence", "answered"}, came


@pytest.mark.slow
@pytest.mark.fuzz
def test_PX51_service(tmp_path: Path) -> None:
    """PX-51: the running service meets mutated requests without a fault, half as many as C{CASTD_FUZZ} says."""
    seeds, answers = SEEDS["proxydhcp"], 0
    limits = {"relays": True, "answers": "10000/s", "answers-per-machine": "10000/s"}
    for seed, datagrams in rounds(DATAGRAMS // 2):
        chance = random.Random(seed)
        with ProxyStage(tmp_path, MENU, own=limits) as stage:
            for _ in range(datagrams):
                datagram = mutated(chance, chance.choice(seeds if chance.random() < 0.5 else _KNOWN), seeds)
                source, to = chance.choice([(NOWHERE, ALL), ((MACHINE, 68), BOOT), ((MACHINE, 67), (SERVER, 67))])
                answers += len(stage.hear(datagram, source, to, 0.06))
    assert answers > DATAGRAMS // 40, answers


@pytest.mark.parametrize("id", ["A-01", "P-21", "S-05"])
def test_PX52_ownOffer(tmp_path: Path, id: str) -> None:
    """PX-52: an offer that comes to port 67, its own or another's, is not answered."""
    with ProxyStage(tmp_path, {"boot": "boot.ipxe"}) as stage:
        for source in ((SERVER, 67), NOWHERE, (MACHINE, 68)):
            assert stage.hear(vector(id), source, ALL) == []


# Sockets; those of the kernel are in test_proxydhcp_sockets.py.


def test_PX54_taken(tmp_path: Path) -> None:
    """PX-54: where port 67 cannot be had the start fails, and the complaint says what else can be done."""

    def occupy(host: Any) -> None:
        host.listen(67, RecordingListener(), f"255.255.255.255%{SERVER}")

    with pytest.raises(ConfigError) as caught, ProxyStage(tmp_path, X64, prepare=occupy):
        pass
    (fault,) = caught.value.faults
    assert "x.yaml:" in fault
    assert "taken" in fault
    assert "port-67: false" in fault
    with ProxyStage(tmp_path, X64, prepare=occupy, own={"port-67": False}) as stage:
        assert only(stage.replay("P-13")).datagram == vector("A-03")


class RecordingListener:
    """A protocol of another program."""

    def makeConnection(self, transport: object) -> None:
        pass


def test_PX55_withoutPort67(tmp_path: Path) -> None:
    """PX-55: without port 67 only requests at 4011 are answered, and nothing else is bound."""
    with ProxyStage(tmp_path, X64, own={"port-67": False, "watch": False}) as stage:
        ports = sorted(port.address[1] for port in stage.host.openPorts())
        assert ports == [69, 4011]
        assert stage.replay("P-08") == []
        assert only(stage.replay("P-13")).datagram == vector("A-03")
        assert only(stage.replay("P-55")).file == "snponly.efi"


def test_PX56_twoInterfaces(tmp_path: Path) -> None:
    """PX-56: of two interfaces each has its own answer, from its own address."""
    tftp = {"tftp": {"interface": "any"}}
    second = {"second": {"use": "proxydhcp", "interface": "10.88.0.2", "rules": [{"boot": "bootcode.bin"}]}}
    addresses = ("10.66.0.2/24", "10.88.0.2/24")
    with ProxyStage(tmp_path, X64, transports={**tftp, **second}, addresses=addresses) as stage:
        assert only(stage.hear(discover())).datagram[20:24] == bytes([10, 66, 0, 2])
        other = RecordingClient(stage.network.host("10.88.0.115/24"), 68)
        stage.said()
        stage.network.carry(discover(), NOWHERE, ALL, _broadcasting(other))
        stage.network.advance(0.01)
        said = only(stage.said())
        assert (said.source, said.file) == (("10.88.0.2", 67), "bootcode.bin")
        assert said.packet.options[54] == said.packet.siaddr.packed == bytes([10, 88, 0, 2])


def test_PX57_hasAddress(tmp_path: Path) -> None:
    """PX-57: a DISCOVER of a host that has an address is answered by broadcast all the same; from afar not at all."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.hear(discover(), (MACHINE, 68), ALL)).to == ("255.255.255.255", 68)
        assert stage.hear(discover(xid=b"\0\0\0\2"), ("10.99.0.5", 68), ALL) == []


def test_PX58_discovery(tmp_path: Path) -> None:
    """PX-58: with a group for discovery the menu names it, and what is sent there is answered from this address."""
    own = {"discovery": "239.255.66.1"}
    with ProxyStage(tmp_path, MENU, own=own) as stage:
        vendor = pxe.parseSuboptions(only(stage.replay("P-20")).packet.options[43])
        assert (vendor[6], vendor[7]) == (b"\5", bytes([239, 255, 66, 1]))
        said = only(stage.replay("P-41"))
        assert (said.source, said.to, said.file) == (BOOT, (MACHINE, 68), "boot.ipxe")
    with ProxyStage(tmp_path, MENU) as stage:
        assert stage.replay("P-41") == []
        assert not stage.network.groups


def test_PX59_broadcastItem(tmp_path: Path) -> None:
    """PX-59: an item that is asked for by broadcast is not answered: the DHCP server answers that, too."""
    with ProxyStage(tmp_path, MENU) as stage:
        assert stage.replay("P-46") == []


# Other servers, and what becomes of an offer.


def test_PX60_rival(tmp_path: Path) -> None:
    """PX-60: another proxy is told of once an hour, and counted; the own offers are not."""
    tftp = {"tftp": {"interface": "10.66.0.3"}}
    with ProxyStage(
        tmp_path, X64, transports=tftp, own={"interface": "10.66.0.3"}, addresses=["10.66.0.3/24"]
    ) as stage:
        stage.hear(discover())
        assert stage.service.counts == {"rivals": 0}
        rival = RecordingClient(stage.network.host("10.66.0.2/24"), 67)
        for _ in range(5):
            stage.network.carry(vector("P-52"), ("10.66.0.2", 67), ("255.255.255.255", 68), _broadcasting(rival))
            stage.network.advance(60)
        (told,) = stage.told("rival")
        assert told["log_format"].format(**told).endswith("10.66.0.2 answers PXE clients too, with file snponly.efi")
        assert stage.service.counts == {"rivals": 1}
        stage.network.advance(3600)
        assert stage.service.counts == {"rivals": 0}
        stage.network.carry(vector("P-52"), ("10.66.0.2", 67), ("255.255.255.255", 68), _broadcasting(rival))
        stage.network.advance(1)
        assert len(stage.told("rival")) == 2


def _broadcasting(client: RecordingClient) -> Any:
    client.port.setBroadcastAllowed(True)
    return client.port


@pytest.mark.parametrize(
    ("id", "what"),
    [("P-69", "iPXE's no-pxedhcp (175.176)"), ("P-67", "option 60"), (None, "file wrong.0"), ("P-09", None)],
)
def test_PX61_dhcpServer(tmp_path: Path, id: str | None, what: str | None) -> None:
    """PX-61: a DHCP server that names a file, says option 60 or 175.176 is told of, once; a plain one is not."""
    with ProxyStage(tmp_path, X64) as stage:
        packet = dhcp.parse(vector(id or "P-09"))
        if id is None:
            packet = DhcpPacket(
                2, 1, 6, packet.xid, packet.chaddr, yiaddr=packet.yiaddr, file=b"wrong.0", options=packet.options
            )
        server = RecordingClient(stage.network.host("10.66.0.1/24"), 67)
        for _ in range(3):
            offer = dhcp.build(packet)
            stage.network.carry(offer, ("10.66.0.1", 67), ("255.255.255.255", 68), _broadcasting(server))
            stage.network.advance(1)
        assert [each["what"] for each in stage.told("overruled")] == ([] if what is None else [what])
        assert stage.service.counts == {"rivals": 0}


@pytest.mark.parametrize(
    ("own", "options", "what"),
    [
        ({}, {}, "file wrong.0"),
        ({}, {60: b"PXEClient"}, "file wrong.0, option 60"),
        ({"port-67": False}, {60: b"PXEClient"}, "file wrong.0"),
    ],
)
def test_PX61_sameMachine(tmp_path: Path, own: dict[str, Any], options: dict[int, bytes], what: str) -> None:
    """PX-61: so is one of this very machine; option 60 is no fault where machines hear of castd by it."""
    with ProxyStage(tmp_path, X64, own=own) as stage:
        packet = dhcp.parse(vector("P-09"))
        said = {**packet.options, dhcp.SERVER_ID: IPv4Address(SERVER).packed, **options}
        offer = DhcpPacket(2, 1, 6, packet.xid, packet.chaddr, yiaddr=packet.yiaddr, file=b"wrong.0", options=said)
        stage.hear(dhcp.build(offer), (SERVER, 67), ("255.255.255.255", 68))
        assert [each["what"] for each in stage.told("overruled")] == [what]


def _rrq(stage: ProxyStage, name: str, host: str = MACHINE) -> None:
    client = RecordingClient(stage.network.host(f"{host}/24"))
    client.send(b"\0\1" + name.encode() + b"\0octet\0", (SERVER, 69))
    stage.network.advance(0.01)


@pytest.mark.parametrize("boot", ["./pc//52.efi", r"pc\52.efi", "pc/52.efi/", "pc/./{{52}}.efi"])
def test_PX62_otherwiseWritten(tmp_path: Path, boot: str) -> None:
    """A name that is written in another way is told as requests for it are read, so that its fetch is known."""
    name = "pc/{52}.efi" if "{" in boot else "pc/52.efi"
    with ProxyStage(tmp_path, {**X64, "boot": boot}) as stage:
        (stage.boot / "pc").mkdir()
        (stage.boot / name).write_bytes(b"x")
        stage.hear(discover())
        (said,) = stage.request(ask())
        assert said.file == name
        _rrq(stage, said.file)
        assert len(stage.told("fetching")) == 1
        stage.network.advance(60)
        assert stage.told("unfetched") == []


def test_PX62_fetched(tmp_path: Path) -> None:
    """PX-62: a fetch within half a minute of the answer is told of; one that never comes is counted, with a hint."""
    with ProxyStage(tmp_path, X64) as stage:
        stage.replay("P-08")
        stage.replay("P-13")
        stage.network.advance(0.9)
        _rrq(stage, "snponly.efi", "10.66.0.99")
        assert stage.told("fetching") == []
        _rrq(stage, "/snponly.efi")
        (told,) = stage.told("fetching")
        assert told["log_format"].format(**told) == (
            "52:54:00:66:00:10: snponly.efi is fetched after 0.9 s by 10.66.0.115"
        )
        stage.network.advance(60)
        assert stage.told("unfetched") == []
        stage.hear(discover(xid=b"\0\0\0\5"))
        stage.network.advance(29)
        assert stage.told("unfetched") == []
        stage.network.advance(2)
        (told,) = stage.told("unfetched")
        assert "answer: direct" in told["why"]
        assert told["machine"] == "52:54:00:66:00:10"


def test_PX62_aHall(tmp_path: Path) -> None:
    """PX-62: of a hall that was told together, and fetches nothing, a few machines are told of in each turn."""
    with ProxyStage(tmp_path, X64) as stage:
        service, turns = stage.service, list[int]()
        check = service._checkFetches

        def checked() -> None:
            check()
            turns.append(len(stage.told("unfetched")))

        service._checkFetches = checked  # type: ignore[method-assign]
        for number in range(2 * MOST_TOLD + 3):
            stage.send(discover(f"52:54:00:66:01:{number:02x}"))
        stage.network.advance(40)
        assert turns == [MOST_TOLD, 2 * MOST_TOLD, 2 * MOST_TOLD + 3]


def test_PX62_handedOver(tmp_path: Path) -> None:
    """
    PX-62: a process that answers no more, for another or for none, does not say who has not fetched: it sees no fetch.
    It waits for those again whom it answers after the other has died.
    """
    with ProxyStage(tmp_path, X64) as stage:
        stage.replay("P-08")
        for each in stage.server.addresses:
            each.drain()
        stage.network.advance(60)
        for each in stage.server.addresses:
            each.resume()
        stage.network.advance(60)
        assert stage.told("unfetched") == []
        stage.hear(discover("52:54:00:66:00:21"))
        stage.network.advance(31)
        assert [each["machine"] for each in stage.told("unfetched")] == ["52:54:00:66:00:21"]


def test_PX62_aPortLess(tmp_path: Path) -> None:
    """PX-62: a reload that closes a port of the service forgets nobody."""
    with ProxyStage(tmp_path, X64, own=RELAYED) as stage:
        stage.hear(discover())
        stage._own.clear()
        stage.write(X64)
        assert result(stage.server.reread()) == ()
        stage.network.advance(31)
        assert len(stage.told("unfetched")) == 1


def test_PX62_answeredAfterAReload(tmp_path: Path) -> None:
    """PX-62: the new service waits also for a machine whom the one before answers only after the reload."""
    with ProxyStage(tmp_path, X64, own={"answers": "1/s"}) as stage:
        stage.replay("P-08")
        _rrq(stage, "snponly.efi")
        stage.network.advance(0.9)
        before = stage.service
        assert stage.hear(discover("52:54:00:66:00:21", xid=b"\0\0\0\7")) == []
        assert result(stage.server.reread()) == ()
        stage.network.advance(0.2)
        assert [each.source[1] for each in stage.said() if each.source[1] in (67, 4011)] == [67]
        timers = [getattr(call.func, "__self__", None) for call in stage.network.getDelayedCalls()]
        assert (before in timers, stage.service in timers) == (False, True)
        stage.network.advance(31)
        assert [each["machine"] for each in stage.told("unfetched")] == ["52:54:00:66:00:21"]


def test_PX62_direct(tmp_path: Path) -> None:
    """PX-62: a direct answer names no address: the first fetch of the name counts for who has waited longest."""
    with ProxyStage(tmp_path, IPXE) as stage:
        for mac in ("52:54:00:66:00:21", "52:54:00:66:00:22"):
            stage.hear(discover(mac, options={77: b"iPXE"}))
        _rrq(stage, "boot.ipxe")
        _rrq(stage, "boot.ipxe", "10.66.0.116")
        assert [each["machine"] for each in stage.told("fetching")] == ["52:54:00:66:00:21", "52:54:00:66:00:22"]


def test_PX63_reload(tmp_path: Path) -> None:
    """PX-63: after a reload between offer and request the new rules answer; the limits and the log remember."""
    with ProxyStage(tmp_path, X64, own={"answers-per-machine": "0.5/s"}) as stage:
        assert only(stage.replay("P-08")).file == "snponly.efi"
        stage.write(X64 | {"boot": "bootcode.bin"})
        assert result(stage.server.reread()) == ()
        assert only(stage.replay("P-13")).file == "bootcode.bin"
        assert stage.replay("P-30") == []
        stage.write(X64 | {"by": "nobody"})
        assert "no transport is called nobody" in result(stage.server.reread())[0]
        stage.network.advance(4)
        assert only(stage.replay("P-13")).file == "bootcode.bin"
        stage.network.advance(40)
        assert len(stage.told("unfetched")) == 1


def test_PX63_inSlices(tmp_path: Path) -> None:
    """PX-63: a reload of hundreds of rules checks them in slices, and the rules before answer until all are checked."""
    with ProxyStage(tmp_path, X64) as stage:
        turns: Any = Turns()
        stage.server.site.slices = Slices(turns)
        many = [{"machines": f"52:54:01:00:00:{number:02x}", "boot": "boot.ipxe"} for number in range(200)]
        stage.write(*many, X64 | {"boot": "bootcode.bin"})
        reload, came = stage.server.reread(), 0
        while not reload.called:
            assert only(stage.replay("P-13")).file == "snponly.efi"
            stage.network.advance(4)
            turns.calls.pop(0)()
            came += 1
        assert (result(reload), came > 90) == ((), True)
        assert only(stage.replay("P-13")).file == "bootcode.bin"


def test_PX63_refusedReload(tmp_path: Path) -> None:
    """PX-63: a reload that fails while its ports are opened leaves nothing of the new service behind."""
    with ProxyStage(tmp_path, X64) as stage:
        observers = list(stage.server.site.observers)
        RecordingClient(stage.network.host(SERVER), 70)
        stage._own.update(RELAYED)
        stage.write(X64, other={"use": "tftp", "interface": SERVER, "port": 70})
        assert "taken" in result(stage.server.reread())[0]
        assert stage.server.site.observers == observers
        assert only(stage.replay("P-08")).file == "snponly.efi"


def test_PX63_relaysByReload(tmp_path: Path) -> None:
    """PX-63: a reload opens and closes ports of its own, and what is bound stays bound."""
    with ProxyStage(tmp_path, IPXE) as stage:
        before = [port for port in stage.host.openPorts() if port.address[1] == 4011]
        stage._own.update(RELAYED)
        stage.write(IPXE)
        assert result(stage.server.reread()) == ()
        assert only(stage.replay("Q-03")).datagram == vector("A-07")
        stage._own.clear()
        stage.write(IPXE)
        assert result(stage.server.reread()) == ()
        assert stage.replay("Q-03") == []
        assert [port for port in stage.host.openPorts() if port.address[1] == 4011] == before
        stage.network.advance(1)
        assert only(stage.replay("P-20")).datagram == vector("A-01")


def test_PX63_upgrade(tmp_path: Path) -> None:
    """PX-63: a process that takes over the ports answers what was sent before, from the request alone."""
    with ProxyStage(tmp_path, X64) as stage:
        assert only(stage.replay("P-08")).file == "snponly.efi"
        addresses = stage.server.addresses
        for each in addresses:
            assert each.port is not None
            each.port.pause(True)
        assert stage.replay("P-13") == []
        assert stage.replay("P-25") == []
        successor = stage.host.successor()
        after = service.compose(service.read(stage.file, COLLECTED), COLLECTED, successor, successor, random.Random(0))
        after.privilegedStartService()
        stage.said()
        for each in after.addresses:
            assert each.port is not None
            each.port.resume(True)
        stage.network.advance(0.01)
        assert sorted(said.source[1] for said in stage.said()) == [67, 4011]
        after.stopService()
        stage.network.advance(1)


@pytest.mark.loopback
def test_PX64_quick(tmp_path: Path) -> None:
    """PX-64: an answer to a request of a known file takes less than 5 ms of the processor."""
    with ProxyStage(tmp_path, X64) as stage:
        port = next(each for each in stage.host.openPorts() if each.address[1] == 67)
        at, local = stage.service.ports[0], port.locals[SERVER]
        took = []
        for number in range(20):
            began = time.process_time()
            stage.service.datagramFrom(at, discover(f"52:54:00:66:00:{number:02x}"), NOWHERE, local)
            took.append(time.process_time() - began)
        assert len(stage.said()) == 20
        # Few of them may be held up by a garbage collection.
        assert sorted(took)[-3] < 0.005


def test_PX65_slowLookup(tmp_path: Path) -> None:
    """PX-65: where a file is looked for longer than half a second there is silence and a line; others are answered."""
    with ProxyStage(tmp_path, {"boot": "slow"}, X64) as stage:
        asked: list[Deferred[Any]] = []
        source = stage.server.site.content.sources[0]
        known = source.lookup

        def lookup(name: str, peer: Any) -> Any:
            if name != "slow":
                return known(name, peer)
            asked.append(Deferred())
            return asked[-1]

        source.lookup = lookup  # type: ignore[method-assign]
        assert stage.hear(discover(), seconds=0.49) == []
        assert stage.told("unanswered") == []
        stage.network.advance(0.02)
        (told,) = stage.told("unanswered")
        assert "0.5 s" in told["told"]
        stage.hear(discover("52:54:00:66:00:11"))
        assert len(asked) == 1
        stage.network.advance(1.5)
        asked[0].errback(NotFound())
        assert stage.said() == []
        assert only(stage.hear(discover("52:54:00:66:00:12"))).file == "snponly.efi"
        assert len(asked) == 1


def test_PX65_stopped(tmp_path: Path) -> None:
    """PX-65: a stop does not wait for a source that never answers, and what that says later is nobody's answer."""
    with ProxyStage(tmp_path, {"boot": "slow"}) as stage:
        asked: Deferred[Any] = Deferred()
        stage.server.site.content.sources[0].lookup = lambda name, peer: asked  # type: ignore[method-assign]
        stage.hear(discover())
        stage.service.stop()
        asked.errback(NotFound())
        assert (stage.said(), stage.told("unanswered")) == ([], [])


@pytest.mark.slow
def test_whoWaitsNoLongerIsForgotten(tmp_path: Path) -> None:
    """While a disk hangs, each who has waited for it in vain is let go of; who still waits is answered."""
    with ProxyStage(tmp_path, X64) as stage:
        site, files = stage.server.site, KnownFiles(stage.server.site)
        hangs: Deferred[Any] = Deferred()
        site.lookupAny = lambda *asked: hangs  # type: ignore[method-assign]
        gone = files.reasonAgainst("x", (), None)
        left = [weakref.ref(gone)]
        for _ in range(9):
            gone = files.reasonAgainst("x", (), None)
            left.append(weakref.ref(gone))
        answers: list[str] = []
        files.reasonAgainst("x", (), None).addCallback(answers.append)
        for waiting in left:
            if (found := waiting()) is not None:
                found.addErrback(lambda failure: None).cancel()
        del gone, found
        gc.collect()
        assert [waiting() for waiting in left] == 10 * [None]
        hangs.errback(NotFound())
        assert answers == ["missing"]


def test_rulesOfOptions() -> None:
    """What a rule cannot mean is refused where it stands."""
    for wrong in (
        {},
        {"boot": "x", "menu": {"items": [{"text": "x"}]}},
        {"boot": "/x"},
        {"boot": "a b"},
        {"boot": "../x"},
        {"boot": "{host}"},
        {"boot": "x", "arch": "x86"},
        {"boot": "x", "arch": "efi-x64-http"},
        {"boot": "x", "arch": 16},
        {"boot": "x", "machines": "52:54"},
        {"boot": "x", "lacks": "http"},
        {"boot": "x", "ipxe": True, "lacks": "https3"},
    ):
        with pytest.raises(ValidationError):
            BootRule.model_validate(wrong)
    with pytest.raises(ValueError, match="relays"):
        Options.model_validate({"interface": SERVER, "port-67": False, "relays": True, "rules": [{"boot": "x"}]})


def test_checkerIsPure() -> None:
    """The checks need a service file's parts only, and name each key that is wrong."""

    class File:
        transports = ()

        def size(self, name: str) -> int | None:
            return 5

        def isMissing(self, name: str, networks: Any) -> bool:
            return False

        def readable(self, name: str, networks: Any) -> bool:
            return True

    options = Options.model_validate({"interface": SERVER, "rules": [{"boot": "x"}]})
    checker = Checker(options, File(), None)  # type: ignore[arg-type]
    assert [inForce.number for inForce in checker.check()] == [1]
    assert (len(checker.missing), len(checker.faults)) == (1, 1)


@given(st.lists(st.sampled_from([*range(45), 4242]).filter(lambda number: number not in pxe.HTTP_BOOT), unique=True))
def test_architectureWords(numbers: list[int]) -> None:
    """Architectures are written as they are read, by whoever writes them: efi-x64 stands for 7 and 9 together."""
    words = architectureWords(numbers)
    assert not numbers or sorted(architectureNumbers(list(words))) == sorted(numbers)
    assert ("efi-x64" in words) is ({7, 9} <= set(numbers))


def test_silenceInWords() -> None:
    """castd pxe has a sentence for each reason of silence."""
    assert tuple(_REASONS) == REASONS


def test_machine() -> None:
    """What a packet tells of a machine is read once, also from one that says nothing."""
    machine = Machine.of(DhcpPacket(1, 6, 0, b"\0\0\0\0", bytes(16)))
    assert (machine.address, machine.mac, machine.uuid, machine.architectures) == ("", None, None, ())


def test_metrics(tmp_path: Path) -> None:
    """Requests, answers, silence and machines that never fetch are counted, with words that are known beforehand."""
    counters = Counters()
    with ProxyStage(tmp_path, IPXE, X64, {"arch": 4242, "boot": "snponly.efi"}, MENU_X64) as stage, observed(counters):
        for id in ("P-20", "P-08", "P-13", "P-43", "P-49", "S-16"):
            stage.replay(id)
            stage.network.advance(1)
        stage.hear(discover(arch=4242))
        stage.network.advance(31)
        assert stage.service.counts == {"rivals": 0}
    page = pageOf(counters).decode()
    for line in (
        'castd_pxe_requests_total{kind="discover",transport="proxydhcp"} 4.0',
        'castd_pxe_requests_total{kind="request",transport="proxydhcp"} 1.0',
        'castd_pxe_requests_total{kind="item",transport="proxydhcp"} 1.0',
        'castd_pxe_requests_total{kind="other",transport="proxydhcp"} 1.0',
        'castd_pxe_answers_total{arch="bios",kind="discover",transport="proxydhcp"} 1.0',
        'castd_pxe_answers_total{arch="efi-x64",kind="request",transport="proxydhcp"} 1.0',
        'castd_pxe_answers_total{arch="efi-x64",kind="item",transport="proxydhcp"} 1.0',
        'castd_pxe_answers_total{arch="other",kind="discover",transport="proxydhcp"} 1.0',
        'castd_pxe_silent_total{reason="class",transport="proxydhcp"} 2.0',
        'castd_pxe_unfetched_total{transport="proxydhcp"} 1.0',
    ):
        assert line in page, page
    assert REASONS == PXE_REASONS


# The command.


def test_PX66_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PX-66: castd pxe prints name, form and octets of what a machine would be told, and sends nothing."""
    stage = ProxyStage(tmp_path, IPXE, X64)
    monkeypatch.setattr(Ports, "reached", lambda ports, host: stage.host.reached(host))
    told = ["52:54:00:66:00:10", "efi-x64"]
    exact = ["--uuid", "00112233-4455-6677-8899-aabbccddeeff", "--xid", "e6d03c8d"]
    ran = CliRunner().invoke(main, ["pxe", str(stage.file), *told, *exact])
    assert ran.exit_code == 0, ran.output
    rows = dict(line.split(None, 1) for line in ran.output.splitlines())
    assert (rows["boots:"], rows["form:"], rows["rule:"]) == ("snponly.efi", "ask", "2")
    assert (rows["to:"], rows["octets:"]) == ("255.255.255.255:68", vector("A-02").hex())
    assert stage.network.capture == []
    plain = bytes.fromhex(CliRunner().invoke(main, ["pxe", str(stage.file), *told]).output.split()[-1])
    assert (plain[8:240], plain[108:119]) == (vector("A-02")[8:240], b"snponly.efi")
    script = CliRunner().invoke(main, ["pxe", str(stage.file), *told, "--ipxe"])
    assert "boot.ipxe" in script.output


def test_PX66_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PX-66: of a machine behind a relay castd pxe tells whether its relay is in none of the networks, or its rule."""
    stage = ProxyStage(tmp_path, {**X64, "networks": "10.66.0.0/24"}, own=RELAYED)
    monkeypatch.setattr(Ports, "reached", lambda ports, host: stage.host.reached(host))

    def told(relay: str) -> str:
        return (
            CliRunner().invoke(main, ["pxe", str(stage.file), "52:54:00:66:00:10", "efi-x64", "--relay", relay]).output
        )

    assert "its relay, 10.68.0.1, is in none of the networks" in told("10.68.0.1")
    assert "rule 1, but for its networks (its relay is 10.67.0.1)" in told("10.67.0.1")
    assert "to:     10.66.0.1:67" in told("10.66.0.1")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (
            ["52:54:00:66:00:10", "bios"],
            1,
            "no answer: no rule matches; the nearest is rule 1, but for its arch (it is bios)",
        ),
        (["52:54:00:66:00:10", "efi-arm64"], 1, "no answer: gone: is not there"),
        (["52:54:00:66:00:10", "efi-x64", "--relay", "10.67.0.1"], 1, "relays: true is not there"),
        (["52:54", "efi-x64"], 2, "write it as 52:54:00:66:00:10"),
        (["52:54:*", "efi-x64"], 2, "write it as 52:54:00:66:00:10"),
        (["52:54:00:66:00:10", "efi-x65"], 2, "efi-x65 is no architecture"),
        (["52:54:00:66:00:10", "7", "--uuid", "x"], 2, "00112233-4455"),
        (["52:54:00:66:00:10", "7", "--xid", "12"], 2, "eight hexadecimal digits"),
        (["52:54:00:66:00:10", "7", "--relay", "x"], 2, "10.0.0.1"),
    ],
)
def test_PX66_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, text: str
) -> None:
    """PX-66: where there is no answer the reason is told, with status 1; what cannot be read with status 2."""
    stage = ProxyStage(tmp_path, X64, {"arch": "efi-arm64", "boot": "gone"})
    monkeypatch.setattr(Ports, "reached", lambda ports, host: stage.host.reached(host))
    ran = CliRunner().invoke(main, ["pxe", str(stage.file), *words])
    assert (ran.exit_code, text in ran.output) == (status, True), ran.output
