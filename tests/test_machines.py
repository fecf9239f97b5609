"""
What is known of a machine: by DHCP, leases and the kernel's neighbours; and names that depend on it never lead astray.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from castd.files import names
from castd.machines.known import KnownMachine, plainAddress, validMac
from castd.machines.leases import FORMATS, MOST_LEASES, parseLeases
from castd.machines.neighbours import parseNeighbours, readNeighbours
from castd.machines.options import MachinesOptions
from castd.machines.table import ADDRESS_LASTS, HeardMachine, MachineTable
from castd.machines.words import LONGEST_VALUES, fill, parse, wordsOf
from castd.server.machines import FRESH, LONGEST_WAIT, PAUSE, Machines
from tests.support.disks import Later
from tests.support.pxe import MACHINE, ProxyStage, ask, discover

MAC, OTHER = "52:54:00:66:00:10", "52:54:00:66:00:11"
UUID = "00112233-4455-6677-8899-aabbccddeeff"
PEER = ("10.0.0.7", 2070)


# Words.


def test_words() -> None:
    """Words stand for what is known, a doubled brace for itself; without a value the whole text is not known."""
    pieces = parse("a/{{{mac}}}-{arch}")
    assert wordsOf(pieces) == {"mac", "arch"}
    assert fill(pieces, {"mac": "52-54", "arch": "bios"}) == "a/{52-54}-bios"
    assert fill(pieces, {"mac": "52-54"}) is None
    assert fill(parse("{{}}"), {}) == "{}"
    assert fill(parse(""), {}) == ""


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{mca}", "did you mean {mac}"),
        ("{MAC}", "did you mean {mac}"),
        ("{hostname}", "known are {ip}, {mac}, {uuid}, {arch}, {date}, {time}"),
        ("{}", "known are"),
        ("a{b", "write {{"),
        ("a}b", "write }}"),
        ("{words}", "{date}, {time}; a brace itself is written {{ or }}"),
    ],
)
def test_wordsWrong(text: str, hint: str) -> None:
    """An unknown word is told with what would be right."""
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse(text)


@given(st.text(st.sampled_from("{}ab") | st.characters(codec="utf-8")))
def test_anyText(text: str) -> None:
    """Any text is read or refused; written with doubled braces it stands for itself."""
    with suppress(ValueError):
        parse(text)
    assert fill(parse(text.replace("{", "{{").replace("}", "}}")), {}) == text


@given(st.dictionaries(st.sampled_from(sorted(LONGEST_VALUES)), st.text() | st.sampled_from(["..", ".", "a/b", "\0"])))
@example({"mac": ".."})
def test_valuesStayInOnePart(values: dict[str, str]) -> None:
    """Whatever a machine has put into a value: it is one part of a name, or is not known."""
    filled = fill(parse("{mac}"), values)
    if filled is not None:
        assert names.parts(filled) == (filled.encode(),)


@given(
    st.builds(KnownMachine, st.tuples(st.text() | st.ip_addresses().map(str), st.just(69)), mac=st.none() | st.text())
)
def test_valuesOfAnyMachine(machine: KnownMachine) -> None:
    """Also what is made without the table has values that are parts of names, or none."""
    for word in LONGEST_VALUES:
        filled = fill(parse(f"x{{{word}}}"), machine.values)
        assert filled is None or len(names.parts(filled)) == 1


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fe80::1%eth0", "fe80--1"),
        ("::1", "0--1"),
        ("2001:db8::", "2001-db8--0"),
        ("0.0.0.0", None),
        ("::", None),
        ("nonsense", None),
    ],
)
def test_addresses(host: str, value: str | None) -> None:
    """An address has no colons in a name, no zone, and is that of the machine also through an IPv6 socket."""
    assert KnownMachine((host, 1)).values.get("ip") == value
    assert "ip" not in KnownMachine((host, 1), addressed=False).values


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Date and time are those of the server at the request."""
    machine = KnownMachine(PEER, at=1_795_728_240.0)
    assert machine.values["date"] + "T" + machine.values["time"] == machine.moment
    assert len(machine.moment) == len("2026-11-26T21-24-00")


# The table.


def test_heard() -> None:
    """What a machine has said is known by its MAC, wherever the MAC of the address comes from; the best goes first."""
    table = MachineTable()
    table.hear(MAC, UUID, "efi-x64", None, 0.0)
    assert table.machineOf(PEER, None, 1.0, 1.0).mac is None
    table.hear(MAC, None, "bios", "10.0.0.7", 1.0)
    found = table.machineOf(PEER, "10.0.0.1", 2.0, 2.0)
    assert (found.mac, found.uuid, found.arch, found.server) == (MAC, UUID, "bios", "10.0.0.1")
    table.setLeases(0, parseLeases(f"100 {OTHER} 10.0.0.7 pc 01:{OTHER}\n", "dnsmasq"))
    assert table.machineOf(PEER, None, 2.0, 99.0).mac == OTHER
    assert table.machineOf(PEER, None, 2.0, 100.0).mac == MAC
    table.setNeighbours({"10.0.0.7": OTHER})
    assert table.machineOf(PEER, None, 2.0, 100.0).mac == OTHER
    table.setNeighbours({})
    assert table.machineOf(PEER, None, 1.0 + ADDRESS_LASTS, 100.0).mac is None


def test_severalLeaseFiles() -> None:
    """An address that stands in several files is looked for in the first, in whatever order they were read."""
    table = MachineTable()
    for number, mac in ((2, OTHER), (0, MAC), (1, OTHER), (10, OTHER)):
        table.setLeases(number, parseLeases(f"100 {mac} 10.0.0.7 pc 01:{mac}\n", "dnsmasq"))
    assert table.machineOf(PEER, None, 2.0, 99.0).mac == MAC
    table.setLeases(0, {})
    assert table.machineOf(PEER, None, 2.0, 99.0).mac == OTHER


def test_addressMoves() -> None:
    """An address belongs to the machine that has had it last; the former owner does not keep it."""
    table = MachineTable()
    table.hear(MAC, None, None, "10.0.0.7", 0.0)
    table.hear(OTHER, None, None, "10.0.0.7", 1.0)
    table.hear(MAC, None, None, "10.0.0.8", 2.0)
    assert table.machineOf(("10.0.0.7", 1), None, 3.0, 3.0).mac == OTHER
    assert table.machineOf(("10.0.0.8", 1), None, 3.0, 3.0).mac == MAC


def test_bounded() -> None:
    """Who says the most is not remembered alone: beyond the limit the one that was silent longest is forgotten."""
    table = MachineTable(most=3)
    for number in range(10):
        table.hear(f"52:54:00:00:00:{number:02x}", UUID, "bios", f"10.0.0.{number}", float(number))
        table.hear(MAC, UUID, "bios", None, float(number))
    assert len(table) == 3
    assert table.machineWith(MAC, PEER, None, 0.0).arch == "bios"
    assert table.machineOf(("10.0.0.0", 1), None, 9.0, 9.0).mac is None


@pytest.mark.parametrize("mac", ["", "00:00:00:00:00:00", "52:54", "../../../../..", None, 5, "52:54:00:66:00:1g"])
def test_malformed(mac: Any) -> None:
    """What is no hardware address is not remembered; UUID and architecture that are none count as not said."""
    table = MachineTable()
    table.hear(mac, UUID, "bios", None, 0.0)
    assert len(table) == 0
    table.hear(MAC, "../x", "../../etc", "10.0.0.7/8", 0.0)
    assert next(table.heard()) == HeardMachine(MAC, None, None, None, 0.0)


# Leases.

ISC = f"""
# The format of this file is documented in the dhcpd.leases(5) manual page.
authoring-byte-order little-endian;
lease 10.0.0.7 {{
  starts 4 2026/11/26 20:24:00;
  ends 4 2026/11/26 21:24:00;
  binding state active;
  next binding state free;
  hardware ethernet {MAC};
  uid "\\001RT\\000f\\000\\"}} lease";
  client-hostname "pc;7";
}}
lease 10.0.0.8 {{ ends never; binding state active; hardware ethernet {OTHER}; }}
lease 10.0.0.9 {{ ends epoch 1795728240; # Thu
  binding state active; hardware ethernet {OTHER}; }}
lease 10.0.0.9 {{ ends epoch 1795728240; binding state free; hardware ethernet {OTHER}; }}
lease 10.0.0.10 {{ ends 4 2026/11/26 21:24:00; hardware ethernet {MAC}; on commit {{ set x = "y"; }} }}
}}
lease 10.0.0.12 {{ ends epoch 1795728240; # Thu
  binding state active; hardware ethernet {OTHER}; }}
lease 10.0.0.11 {{
  ends 4 2026/11/26 21:2"""

KEA = f"""address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context,pool_id
10.0.0.7,{MAC},01:{MAC},3600,1795728240,1,0,0,pc7,0,,0
10.0.0.8,{OTHER},,4294967295,5090695535,1,0,0,"a,b",0,,0
10.0.0.9,{OTHER},,3600,1795728240,1,0,0,,0,,0
10.0.0.9,{OTHER},,0,1795728240,1,0,0,,0,,0
10.0.0.10,,,3600,1795728240,1,0,0,,1,,0
10.0.0.11,{MAC},,36"""

DNSMASQ = f"""1795728240 {MAC} 10.0.0.7 pc7 01:{MAC}
0 {OTHER} 10.0.0.8 * *
1795728240 06-{OTHER} 10.0.0.10 * *
duid 00:01:00:01:2c
1795728240 16777216 2001:db8::7 pc7 00:01:00:01
17957 52:54"""


@pytest.mark.parametrize(
    ("form", "text", "known"),
    [
        (
            "isc",
            ISC,
            {
                "10.0.0.7": (MAC, 1795728240.0),
                "10.0.0.8": (OTHER, None),
                "10.0.0.10": (MAC, 1795728240.0),
                "10.0.0.12": (OTHER, 1795728240.0),
            },
        ),
        ("kea", KEA, {"10.0.0.7": (MAC, 1795728240.0), "10.0.0.8": (OTHER, None)}),
        (
            "dnsmasq",
            DNSMASQ,
            {"10.0.0.7": (MAC, 1795728240.0), "10.0.0.8": (OTHER, None), "10.0.0.10": (OTHER, 1795728240.0)},
        ),
    ],
)
def test_leases(form: str, text: str, known: dict[str, Any]) -> None:
    """The last lease of each address counts, if it is in force; a line that is being written is skipped."""
    assert {ip: (lease.mac, lease.until) for ip, lease in parseLeases(text, form).items()} == known


@given(st.sampled_from(sorted(FORMATS)), st.text() | st.text(st.sampled_from('lease {};"\\\n#,0:.1address')))
@example("isc", "}}}{lease 1.1.1.1 {")
@example("kea", '"')
@example("kea", "address,hwaddr,expire\n\0,\0,\0")
@example("dnsmasq", "٣ 52:54:00:66:00:10 10.0.0.7 * *")
def test_anyLeaseFile(form: str, text: str) -> None:
    """Whatever stands in a lease file is read or skipped, and what comes out is an address and a MAC."""
    for ip, lease in parseLeases(text, form).items():
        assert (plainAddress(ip), validMac(lease.mac), lease.ip) == (ip, lease.mac, ip)


@pytest.mark.slow
@given(st.sampled_from([("isc", ISC), ("kea", KEA), ("dnsmasq", DNSMASQ)]), st.integers(0, 1500), st.binary(max_size=4))
def test_damagedLeaseFile(file: tuple[str, str], at: int, damage: bytes) -> None:
    """A file that is cut or damaged anywhere costs the leases there, and raises nothing."""
    form, text = file
    parseLeases(text[:at], form)
    parseLeases((text[:at].encode() + damage + text[at:].encode()).decode("utf-8", "replace"), form)


@pytest.mark.slow
def test_manyLeases() -> None:
    """Of a file without end no more is kept than the limit."""
    lines = (f"0 {MAC} 10.{n >> 16}.{n >> 8 & 255}.{n & 255} * *" for n in range(1, MOST_LEASES + 100))
    assert len(parseLeases("\n".join(lines), "dnsmasq")) == MOST_LEASES + 1


# Neighbours.


def neighbour(address: bytes, mac: bytes, state: int = 0x04) -> bytes:
    """One message of the kernel, as RTM_GETNEIGH is answered."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BxxxiHBB", family, 2, state, 0, 1)
    for kind, value in ((1, address), (2, mac)):
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), 28, 2, 1, 0) + body


def test_neighbours() -> None:
    """Addresses of both families are read with their MAC; entries that say nothing are skipped."""
    mac = bytes.fromhex("525400660010")
    answer = (
        neighbour(bytes([10, 0, 0, 7]), mac)
        + neighbour(socket.inet_pton(socket.AF_INET6, "2001:db8::7"), mac, 0x02)
        + neighbour(bytes([10, 0, 0, 8]), mac, 0x20)
        + neighbour(bytes([10, 0, 0, 9]), b"", 0x01)
        + neighbour(bytes([127, 0, 0, 1]), bytes(6), 0x40)
    )
    assert dict(parseNeighbours(answer)) == {"10.0.0.7": MAC, "2001:db8::7": MAC}


@given(st.binary(max_size=200) | st.binary(max_size=64).map(lambda octets: neighbour(bytes(4), octets)))
def test_anyNeighbours(answer: bytes) -> None:
    """Nothing that the kernel could say raises anything."""
    for ip, mac in parseNeighbours(answer):
        assert plainAddress(ip) == ip
        assert validMac(mac) == mac


class NeighbourSocket:
    """A netlink socket with the answers of a test."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __call__(self, *_: object) -> NeighbourSocket:
        return self

    def __enter__(self) -> NeighbourSocket:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def send(self, request: bytes) -> None:
        pass

    def recv(self, most: int) -> bytes:
        return self.answers.pop(0)


def about(kind: int, number: int, more: bytes = b"") -> bytes:
    """A message of the kernel about a request: its end (3) or an error (2), with the number of an error."""
    return struct.pack("=IHHIIi", 20 + len(more), kind, 2, 1, 0, -number) + more


def test_neighboursToTheEnd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are read until the one that says that it is the last."""
    entries = [neighbour(bytes([10, 0, 0, number]), bytes.fromhex("525400660010")) for number in (7, 8)]
    fake = NeighbourSocket(entries[0], entries[1] + about(3, 0))
    monkeypatch.setattr(socket, "socket", fake)
    assert readNeighbours() == {"10.0.0.7": MAC, "10.0.0.8": MAC}
    assert not fake.answers


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (about(2, errno.EOPNOTSUPP, bytes(16)), errno.EOPNOTSUPP),
        (about(3, errno.EMSGSIZE), errno.EMSGSIZE),
        (about(2, 0)[:16].replace(b"\x14", b"\x10", 1), errno.EBADMSG),
        (about(3, 0)[:-1], errno.EBADMSG),
        (b"", errno.EBADMSG),
    ],
    ids=["refused", "ended", "no number", "cut", "empty"],
)
def test_neighboursRefused(monkeypatch: pytest.MonkeyPatch, answer: bytes, number: int) -> None:
    """
    Where the kernel refuses the request, or ends the list before its time, the table is not taken for an empty one:
    nobody would be told why rules with a MAC match nobody.
    """
    entry = neighbour(bytes([10, 0, 0, 7]), bytes.fromhex("525400660010"))
    monkeypatch.setattr(socket, "socket", NeighbourSocket(entry, answer))
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        readNeighbours()
    assert raised.value.errno == number


@pytest.mark.loopback
def test_ownNeighbours() -> None:
    """This machine's kernel is asked as it is, and answers."""
    assert all(plainAddress(ip) and validMac(mac) for ip, mac in readNeighbours().items())


# Reading them.


def made(tmp_path: Path, clock: Clock, thread: Any = maybeDeferred, **options: Any) -> tuple[Machines, list[int]]:
    """Machines with a table of neighbours that counts how often it is read."""
    read = list[int]()
    machines = Machines(clock, lambda: thread, lambda: (read.append(1), {"10.0.0.7": MAC})[1], lambda: 50.0)
    machines.adjust(MachinesOptions.model_validate(options))
    return machines, read


def test_readOnce(tmp_path: Path) -> None:
    """However many ask: the kernel is asked once a second, and not at all if nobody does."""
    clock = Clock()
    machines, read = made(tmp_path, clock)
    assert not read
    for _ in range(100):
        found = machines.machineOf(PEER)
        assert isinstance(found, KnownMachine)
        assert found.mac == MAC
    assert len(read) == 1
    clock.advance(FRESH)
    machines.machineOf(PEER)
    assert len(read) == 2


@pytest.mark.slow
def test_whoGivesUp(tmp_path: Path, events: list[LogEvent]) -> None:
    """Who waits no longer for what the kernel knows of a machine is let go of, and that is no fault."""
    thread = Later()
    machines, _ = made(tmp_path, Clock(), thread)
    asked = machines.machineOf(PEER)
    assert isinstance(asked, Deferred)
    asked.cancel()
    thread.run()
    del asked
    gc.collect()
    assert events == []


def test_identify(tmp_path: Path) -> None:
    """For the history machines are known by the kernel as it is now, and by what they have said."""
    clock, fail = Clock(), False

    def neighbours() -> dict[str, str]:
        if fail:
            raise OSError("no answer")
        return {"10.0.0.7": MAC}

    machines = Machines(clock, lambda: maybeDeferred, neighbours, lambda: 50.0)
    machines.hear(MAC, None, "efi-x64")
    machines.hear("52:54:00:66:00:99", None, "bios", "10.0.0.8")
    known = {"mac": MAC, "arch": "efi-x64"}
    asked = ("10.0.0.7", "::ffff:10.0.0.7", "10.0.0.8", "10.0.0.9")
    said = {"10.0.0.8": {"mac": "52:54:00:66:00:99", "arch": "bios"}, "10.0.0.9": {}}
    assert machines.identify(asked) == {"10.0.0.7": known, "::ffff:10.0.0.7": known, **said}
    fail = True
    assert machines.identify(asked) == {"10.0.0.7": {}, "::ffff:10.0.0.7": {}, **said}
    machines.adjust(MachinesOptions(neighbours=False))
    assert machines.identify(asked[:1]) == {"10.0.0.7": {}}
    assert not clock.getDelayedCalls()


def test_newcomer(tmp_path: Path) -> None:
    """A machine that has come since the last look is found by another one, soon; a crowd of strangers costs few."""
    clock, there, read = Clock(), dict[str, str](), list[int]()
    machines = Machines(clock, lambda: maybeDeferred, lambda: (read.append(1), dict(there))[1], lambda: 50.0)
    assert isinstance(machines.machineOf(("10.0.0.9", 1)), KnownMachine)
    there["10.0.0.7"] = MAC
    found = [machines.machineOf(PEER), *(machines.machineOf((f"10.0.1.{number}", 1)) for number in range(100))]
    assert len(read) == 1
    clock.advance(PAUSE)
    assert len(read) == 2
    assert [each.result.mac for each in found if isinstance(each, Deferred)] == [MAC, *[None] * 100]
    assert not clock.getDelayedCalls()


def test_readAside(tmp_path: Path) -> None:
    """The loop does not wait: requests do, for what is read after they came; and not for long, if nothing answers."""
    clock, thread = Clock(), Later()
    machines, read = made(tmp_path, clock, thread)
    found = [machines.machineOf(PEER) for _ in range(3)]
    assert all(isinstance(each, Deferred) and not each.called for each in found)
    thread.run()
    assert [each.called for each in found if isinstance(each, Deferred)] == [True, False, False]
    clock.advance(PAUSE)
    thread.run()
    assert [each.result.mac for each in found if isinstance(each, Deferred)] == [MAC] * 3
    assert len(read) == 2
    clock.advance(FRESH)
    late = machines.machineOf(("10.0.0.9", 1))
    assert isinstance(late, Deferred)
    clock.advance(LONGEST_WAIT)
    assert late.result.mac is None, "that it is served by"
    assert isinstance(machines.machineOf(PEER), KnownMachine), "nobody waits for what does not answer"
    assert not clock.getDelayedCalls()


def test_leaseFileChanges(tmp_path: Path, events: list[LogEvent]) -> None:
    """A lease file is read again when it has changed; one that is missing is told once, and what was known stays."""
    clock, file = Clock(), tmp_path / "leases"
    options = {"neighbours": False, "leases": [{"path": str(file), "format": "dnsmasq"}]}
    machines, read = made(tmp_path, clock, **options)

    def mac() -> str | None:
        clock.advance(FRESH)
        found = machines.machineOf(PEER)
        assert isinstance(found, KnownMachine)
        return found.mac

    assert [mac(), mac()] == [None, None]
    assert [event["event"] for event in events] == ["unread-machines"]
    file.write_text(f"0 {MAC} 10.0.0.7 * *\n")
    assert mac() == MAC
    file.write_text(f"0 {OTHER} 10.0.0.7 * *  \n")
    assert mac() == OTHER
    file.unlink()
    assert mac() == OTHER
    assert not read
    machines.adjust(MachinesOptions(neighbours=True))
    assert mac() == MAC


def test_handedOver() -> None:
    """What one process has heard another one knows, as old as it is; what it has heard itself is newer."""
    before, after = Clock(), Clock()
    before.advance(1000.0)
    after.advance(7.0)
    old, new = Machines(before, neighbours=dict), Machines(after, neighbours=dict)
    old.hear(MAC, UUID, "efi-x64", "10.0.0.7")
    old.hear(OTHER, UUID, "bios", None)
    before.advance(5.0)
    new.hear(OTHER, None, "efi-ia32")
    new.adopt(HeardMachine(*fields) for fields in map(list, old.heard()))
    assert new.table.machineWith(OTHER, PEER, None, 0.0).arch == "efi-ia32"
    assert new.table.machineOf(PEER, None, 7.0, 0.0).uuid == UUID
    assert [each.at for each in new.heard()] == [0.0, 5.0]


# proxydhcp.


def test_proxydhcpTells(tmp_path: Path) -> None:
    """
    What proxydhcp hears is known of machines; whether a file is there is found out for the very machine, before it has
    an address; who is not answered is not remembered.
    """
    rules = [{"boot": "own.efi"}, {"boot": "snponly.efi"}]
    folders = [{"directory": {"path": "machines/{mac}"}}, {"directory": {"path": "boot"}}]
    own = tmp_path / "machines" / MAC.replace(":", "-")
    own.mkdir(parents=True)
    (own / "own.efi").touch()
    with ProxyStage(tmp_path, *rules, more={"content": folders}) as stage:
        machines = stage.server.site.machines
        files = [stage.hear(discover(mac))[0].file for mac in (MAC, OTHER)]
        assert files == ["own.efi", "snponly.efi"]
        stage.hear(discover("52:54:00:66:00:12", options={60: b"another class"}))
        assert [(each.mac, each.arch, each.ip) for each in machines.heard()] == [
            (MAC, "efi-x64", None),
            (OTHER, "efi-x64", None),
        ]
        stage.request(ask(MAC))
        assert [each.ip for each in machines.heard() if each.mac == MAC] == [MACHINE]
