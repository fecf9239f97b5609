"""
Access depends on the machine that asks only where the service file says that machines are trusted; then the first rule
that is for this machine decides, and whoever no such rule is about waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred, maybeDeferred

from castd.config import yaml
from castd.config.config import Config, build
from castd.config.warnings import warningsOf
from castd.errors import ConfigError, Forbidden
from castd.files.access import Rule, Rules
from castd.interfaces import IContentSink
from castd.machines.known import KnownMachine
from castd.packets.tftp import Ack, Data
from castd.request import Local, Request
from castd.server.machines import Machines
from castd.service.build import kinds
from castd.service.explain import DryRequest
from castd.testing import Network, RecordingClient
from tests.support.clients.tftp import hear, isError, rrq, upload, wrq
from tests.support.disks import Later, result
from tests.support.pxe import ProxyStage, discover
from tests.support.server import COLLECTED, SERVER, Case

MAC, OTHER = "52:54:00:66:00:10", "52:54:00:66:00:11"
UUID = "00112233-4455-6677-8899-aabbccddeeff"
HERE, THERE = "10.0.0.9", "10.0.0.10"
UNKNOWN = KnownMachine((HERE, 1))


def rules(*written: dict[str, Any]) -> Rules:
    """Return rules as a service file has them."""
    return Rules([Rule.model_validate(each) for each in written])


def machine(mac: str | None = None, arch: str | None = None, uuid: str | None = None) -> KnownMachine:
    """Return what is known of a machine at HERE."""
    return KnownMachine((HERE, 1), None, mac, uuid, arch)


def allows(asked: Rules, who: KnownMachine | None, name: str = "x", write: bool = False, host: str = HERE) -> bool:
    """Return whether the rules let this machine read or write."""
    try:
        asked.check(host, name, write, who)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("rule", "who", "allowed"),
    [
        ({"mac": [MAC]}, machine(MAC), True),
        ({"mac": ["52-54-00"]}, machine(MAC), True),
        ({"mac": ["52:54:00:66:00:1"[:14]]}, machine(MAC), True),
        ({"mac": [OTHER, MAC.upper()]}, machine(MAC), True),
        ({"mac": [OTHER]}, machine(MAC), False),
        ({"mac": [MAC]}, UNKNOWN, False),
        ({"mac": [MAC]}, None, False),
        ({"arch": ["bios", "efi-x64"]}, machine(MAC, "efi-x64"), True),
        ({"arch": ["bios"]}, machine(MAC), False),
        ({"uuid": [UUID.upper()]}, machine(MAC, uuid=UUID), True),
        ({"uuid": [UUID]}, machine(MAC, uuid=UUID.replace("0", "1")), False),
        ({"mac": [MAC], "arch": ["bios"]}, machine(MAC, "bios"), True),
        ({"mac": [MAC], "arch": ["bios"]}, machine(MAC, "efi-x64"), False),
        ({"mac": [MAC], "arch": ["bios"]}, machine(OTHER, "bios"), False),
        ({"mac": [MAC], "names": ["y"]}, machine(MAC), False),
        ({"mac": [MAC], "allow": "10.0.1.0/24"}, machine(MAC), False),
        ({"mac": [MAC], "for": "write"}, machine(MAC), False),
    ],
)
def test_whichMachine(rule: dict[str, Any], who: KnownMachine | None, allowed: bool) -> None:
    """A rule is for the machines that have all that it names; one of which it is not known has nothing."""
    assert allows(rules({"allow": "any", **rule}), who) is allowed
    denied = {key: value for key, value in {"deny": "any", **rule}.items() if key != "allow"}
    if "allow" not in rule:
        assert allows(rules(denied, {"allow": "any"}), who) is not allowed


@pytest.mark.parametrize("wrong", [{"mac": ["5"]}, {"mac": []}, {"uuid": ["1-2"]}, {"arch": ["EFI x64"]}, {"mac": MAC}])
def test_wrong(wrong: dict[str, Any]) -> None:
    """A rule for no machine, and a MAC, an architecture or a UUID that is none, are refused."""
    with pytest.raises(ValidationError):
        Rule.model_validate({"allow": "any", **wrong})


MACS, ARCHES, UUIDS = [MAC, OTHER, "aa:00:00:00:00:01"], ["bios", "efi-x64"], [UUID, UUID.replace("0", "1")]
RULES = st.lists(
    st.fixed_dictionaries(
        {"verb": st.sampled_from(["allow", "deny"]), "network": st.sampled_from(["any", "10.0.0.0/24", "10.0.0.9"])},
        optional={
            "mac": st.lists(st.sampled_from(["52", "52:54:00:66:00", *MACS]), min_size=1, max_size=3),
            "arch": st.lists(st.sampled_from(ARCHES), min_size=1, max_size=2),
            "uuid": st.lists(st.sampled_from(UUIDS), min_size=1, max_size=2),
            "names": st.sampled_from([["a"], ["d/*"]]),
            "for": st.sampled_from(["read", "write"]),
        },
    ),
    max_size=6,
)


def firstOf(written: list[dict[str, Any]], who: KnownMachine, host: str, name: str, write: bool) -> int | None:
    """Return the number of the first rule that decides alone, if what it says of machines is compared by hand."""
    for number, rule in enumerate(written):
        given = (("mac", who.mac), ("arch", who.arch), ("uuid", who.uuid))
        fits = all(
            key not in rule or any(value is not None and value.startswith(each) for each in rule[key])
            for key, value in given
        )
        plain = {key: value for key, value in rule.items() if key in ("allow", "deny", "names", "for")}
        if fits and rules(plain).deciding(host, name, write) is not None:
            return number
    return None


@pytest.mark.slow
@settings(max_examples=300)
@given(
    RULES,
    st.sampled_from([None, *MACS]),
    st.sampled_from([None, *ARCHES]),
    st.sampled_from([None, *UUIDS]),
    st.sampled_from([HERE, THERE, "192.168.0.1"]),
    st.sampled_from(["a", "d/a"]),
    st.booleans(),
)
def test_asOneByOne(
    drawn: list[dict[str, Any]], mac: str | None, arch: str | None, uuid: str | None, host: str, name: str, write: bool
) -> None:
    """
    All rules together say what the first of them says that is about the request, asked one by one; and where it is said
    that this does not depend on the machine, it does not.
    """
    written = [
        {each["verb"]: each["network"], **{key: each[key] for key in each if key not in ("verb", "network")}}
        for each in drawn
    ]
    asked, who = rules(*written), machine(mac, arch, uuid)
    wanted = firstOf(written, who, host, name, write)
    assert [asked.deciding(host, name, write, who) for _ in range(2)] == [wanted, wanted]
    if not asked.dependsOnMachine(host, name, write):
        assert asked.deciding(host, name, write) == wanted
    if asked.openToRead and not write:
        assert wanted is not None
        assert "allow" in written[wanted]
    if not write and wanted is not None and "allow" in written[wanted]:
        asked.checkAnyMachine(host, name)


@pytest.mark.slow
def test_manyMachines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand rules for a machine each, only that of the machine that asks is compared with it."""
    macs = [f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}" for number in range(10_000)]
    asked = rules(*({"allow": "any", "mac": [mac]} for mac in macs), {"allow": "any", "mac": ["aa"]})
    compared: list[Rule] = []
    real = Rule.fits
    monkeypatch.setattr(Rule, "fits", lambda self, machine: (compared.append(self), real(self, machine))[1])
    assert allows(asked, machine(macs[777]))
    assert not allows(asked, machine(MAC))
    assert [each.mac for each in compared] == [(macs[777],)]


def test_openToRead() -> None:
    """Rules for some machines behind one that lets everybody read everything cost nothing; before it they count."""
    some: dict[str, Any] = {"deny": "any", "mac": [MAC]}
    assert rules({"allow": "any"}, some).openToRead
    assert not rules(some, {"allow": "any"}).openToRead
    assert not rules({"allow": "any", "mac": [MAC]}).openToRead


def test_anyMachine() -> None:
    """Whether a file is given to somebody is asked before it is known who comes: some machine at least may come."""
    denied = {"deny": "any", "mac": [OTHER]}
    for asked, some in (
        (rules({"allow": "any", "mac": [MAC]}), True),
        (rules(denied, {"allow": "any"}), True),
        (rules({"deny": "any"}, {"allow": "any", "mac": [MAC]}), False),
        (rules(denied), False),
    ):
        assert asked.allowAny([], "x") is False
        assert asked.allowAny(asked.networks, "x") is some


# The service file.

START = "castd: 1\ncontent: [{directory: {path: boot}}]\nuploads: [{directory: {path: drop}}]\n"
TRUSTED = START + "machines: {trusted: true}\n"
END = "transports: {tftp: {port: 69}}\n"


def stock(text: str) -> Config:
    """Read a service file."""
    return build(yaml.parse(text.encode(), "x.yaml"), Path("x.yaml"), kinds(COLLECTED))


@pytest.mark.parametrize("machines", ["", "machines: {trusted: false}\n", "machines: {neighbours: true}\n"])
def test_refusedWithoutTrust(machines: str) -> None:
    """A rule by machine is a fault at its key, unless the file says that machines are trusted."""
    access = (
        f"access:\n- {{alow: any}}\n- {{allow: any}}\n- allow: any\n  mac: ['52:54:00']\n  arch: [bios]\n{machines}"
    )
    with pytest.raises(ConfigError) as raised:
        stock(START + access + END)
    told = [each for each in str(raised.value).splitlines() if "access[2]" in each]
    assert [each.partition(": any machine")[0] for each in told] == [
        "x.yaml:8: access[2].mac",
        "x.yaml:9: access[2].arch",
    ]
    assert all("name its network" in each and "'machines: {trusted: true}'" in each for each in told)


def warned(access: str, machines: str = "trusted: true", transports: str = "tftp: {port: 69}") -> list[str]:
    """Return what is warned of, without what is said of uploads."""
    text = f"{START}machines: {{{machines}}}\naccess: [{access}]\ntransports: {{{transports}}}\n"
    return [each for each in warningsOf(stock(text)) if ": uploads:" not in each]


PROXY = "tftp: {interface: 10.0.0.1}, proxydhcp: {interface: 10.0.0.1, rules: [{boot: a}]}"


def test_forgersAreWarnedOf() -> None:
    """castd check says what a forger can do: once for what he gets, once for what he evades."""
    gets = "x.yaml:4: machines.trusted: anybody on the network of a machine can claim its MAC, architecture and UUID,"
    assert warned(f"{{allow: any, mac: ['{MAC}']}}") == [
        f"{gets} and then gets what the access rule in line 5 gives it"
    ]
    two = warned(f"{{allow: any, mac: ['{MAC}']}}, {{allow: any, mac: ['{OTHER}']}}")
    assert two == [f"{gets} and then gets what the access rule in line 5 and 1 more gives it"]
    (evades,) = warned(f"{{deny: any, mac: ['{MAC}']}}, {{allow: any}}")
    assert evades.startswith(
        "x.yaml:5: access[0]: whoever claims to be another machine, or is not known, is not denied"
    )
    assert warned("{allow: any}") == []


@pytest.mark.parametrize(
    ("access", "machines", "transports", "why"),
    [
        ("mac: ['52']", "neighbours: false", "tftp: {}", "no MAC is known"),
        ("arch: [bios]", "neighbours: true", "tftp: {}", "no architecture is known"),
        (f"uuid: [{UUID}]", "neighbours: true", "tftp: {}", "no UUID is known"),
        (f"uuid: [{UUID}]", "neighbours: false", PROXY, ""),
        ("mac: ['52']", "neighbours: false", PROXY, ""),
    ],
)
def test_neverKnown(access: str, machines: str, transports: str, why: str) -> None:
    """A rule by what nothing can tell never matches, which is worth a warning."""
    told = [
        each for each in warned(f"{{allow: any, {access}}}", f"trusted: true, {machines}", transports) if "[0]" in each
    ]
    assert [each.startswith(f"x.yaml:5: access[0]: never matches: {why}") for each in told] == [True] * bool(why)


def test_rulesBehindIt() -> None:
    """A rule for some machines keeps no rule behind it from deciding; one for all of them does."""
    assert not [each for each in warned("{deny: any, mac: ['52']}, {allow: any}") if "never decides" in each]
    assert [each for each in warned("{deny: any}, {allow: any, mac: ['52']}") if "never decides" in each]


# A running server.

ACCESS = (
    "access:\n"
    "- {allow: 10.0.0.0/24, names: [public]}\n"
    f"- {{allow: 10.0.0.0/24, mac: ['{MAC}']}}\n"
    "- {deny: any, names: [hidden]}\n"
)


class Hall:
    """
    A server whose kernel knows the machines of C{neighbours}, by address.

    @ivar thread: reads the kernel's table when it is told to.
    """

    def __init__(self, folder: Path, neighbours: Mapping[str, str]) -> None:
        for name in ("boot", "drop"):
            (folder / name).mkdir()
        for name in ("public", "secret", "hidden"):
            (folder / "boot" / name).write_bytes(name.encode())
        self.folder, self.network = folder, Network()
        self.case = Case(folder, self.network, TRUSTED + ACCESS + END)
        self.site = self.case.server.site
        self.thread = Later()
        self.reads = 0
        self.site.machines = Machines(self.site.reactor, lambda: self.thread, lambda: self._read(neighbours))

    def _read(self, neighbours: Mapping[str, str]) -> Mapping[str, str]:
        self.reads += 1
        return neighbours

    def ask(self, datagram: bytes, host: str = HERE) -> RecordingClient:
        """Send a request from a new port of this address."""
        client = RecordingClient(self.network.host(host))
        client.send(datagram, (SERVER, 69))
        self.network.advance(0.01)
        return client

    def stop(self) -> None:
        """Stop the server."""
        self.case.server.stopService()
        self.network.advance(30)


@pytest.fixture
def hall(tmp_path: Path) -> Any:
    made = Hall(tmp_path, {HERE: MAC, THERE: OTHER})
    yield made
    made.stop()


def test_whoReads(hall: Hall) -> None:
    """The machine that is named gets the file; another one, and one that nobody knows, get an ERROR."""
    clients = [hall.ask(rrq("secret"), host) for host in (HERE, THERE, "10.0.0.11")]
    assert [each.inbox for each in clients] == [[], [], []], "nothing is known as yet"
    for _ in range(3):
        hall.thread.run()
        hall.network.advance(0.1)
    answers = [hear(each) for each in clients]
    assert answers[0] == Data(1, b"secret")
    assert [isError(each, 2) for each in answers] == [False, True, True]


def test_othersWaitForNothing(hall: Hall) -> None:
    """Where a rule before, or a network, decides, the answer comes at once, and the kernel is not asked."""
    assert hear(hall.ask(rrq("public"))) == Data(1, b"public")
    assert isError(hear(hall.ask(rrq("secret"), "10.0.1.9")), 2)
    assert (hall.reads, hall.thread.jobs) == (0, [])


def test_whileTheKernelIsSilent(hall: Hall) -> None:
    """A machine that is not found in time counts as unknown; and nobody else waits meanwhile."""
    waiting = hall.ask(rrq("secret"))
    assert hear(hall.ask(rrq("public"))) == Data(1, b"public")
    assert waiting.inbox == []
    hall.network.advance(1)
    assert isError(hear(waiting), 2)


def test_whoWrites(hall: Hall) -> None:
    """For uploads it is the same: the named machine writes, and of others nothing is made."""
    clients = [hall.ask(wrq("log"), host) for host in (HERE, THERE)]
    for _ in range(3):
        hall.thread.run()
        hall.network.advance(0.1)
    letter = clients[0].expect()
    assert letter.datagram == b"\0\4\0\0"
    assert upload(clients[0], letter.source, b"of mine") == [Ack(1)]
    assert isError(hear(clients[1]), 2)
    assert [each.name for each in (hall.folder / "drop").iterdir()] == ["log"]
    assert (hall.folder / "drop" / "log").read_bytes() == b"of mine"


def test_sink(hall: Hall) -> None:
    """What waits for the machine keeps the promise of a sink."""
    request = Request((HERE, 2000), Local(SERVER, 69), "log", write=True)
    sink: Any = hall.site.sink(request)
    assert IContentSink.providedBy(sink)
    begun = sink.begin("log", request.peer, None)
    assert isinstance(begun, Deferred)
    assert not begun.called
    begun.addErrback(lambda _: None)
    hall.network.advance(1)


def test_explained(hall: Hall) -> None:
    """castd explain says what is known of the machine, by which rule it decides, and that it can be forged."""
    hall.site.machines = Machines(hall.site.reactor, lambda: maybeDeferred, lambda: {HERE: MAC, THERE: OTHER})

    def told(client: str, name: str, write: bool = False) -> list[tuple[str, str]]:
        found = hall.case.server.explain(DryRequest.read({"client": client, "name": name, "write": write}))
        hall.network.advance(0.1)
        (explanation,) = result(found)["explanations"]
        return [
            (str(each["where"]).rpartition("/")[2], each["text"])
            for each in explanation["steps"]
            if each["step"] == "access"
        ]

    claimed = f"allows it by the MAC {MAC} that the machine seems to have; it can be forged"
    names = ("x.yaml:6: access[0]", "does not match: it is for other names")
    assert told(HERE, "secret") == told(HERE, "log", True) == [names, ("x.yaml:7: access[1]", claimed)]
    assert told(THERE, "hidden") == [
        names,
        ("x.yaml:7: access[1]", f"does not match: it is for other machines, and of this one the MAC is {OTHER}"),
        ("x.yaml:8: access[2]", "denies it"),
    ]
    assert told("10.0.0.11", "hidden")[1][1].endswith("and of this one no MAC is known")
    assert told("10.0.1.9", "hidden")[1][1] == "does not match: it is for other clients"
    assert told(HERE, "public") == [("x.yaml:6: access[0]", "allows it")]


def test_proxydhcp(tmp_path: Path) -> None:
    """A machine is told to boot what the rules give this very machine, before it has an address."""
    access = [{"allow": "any", "mac": [MAC], "names": ["own.efi"]}, {"allow": "any", "names": ["snponly.efi"]}]
    more = {"access": access, "machines": {"trusted": "true", "neighbours": "false"}}
    with ProxyStage(tmp_path, {"boot": "own.efi"}, {"boot": "snponly.efi"}, more=more) as stage:
        (stage.boot / "own.efi").touch()
        assert [stage.hear(discover(mac))[0].file for mac in (MAC, OTHER)] == ["own.efi", "snponly.efi"]
        assert not [each for each in stage.server.warnings() if "to none of the machines" in each]
