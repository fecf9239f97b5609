"""
Of twelve machines that fail at the same time, each for a reason of its own, every question of an operator is answered
by one command; and log, history, explain, status, page, verdict and capture name the right machine and the right cause.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from castd.verdicts import RULES
from tests.support.captures import byTshark
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall
from tests.support.lab.twelve import FAULTS, GROUPS, MUTE, SIXTH, SLOW_OCTETS, Seen, Twelve

pytestmark = [pytest.mark.e2e, pytest.mark.root]

Event = dict[str, Any]
each = pytest.mark.parametrize("name", FAULTS)

#: Machines that the server's kernel knows no address of: behind a router, or gone.
NO_NEIGHBOURS = {"narrow", "dead"}
#: Those whose transfer was under way when C{castd status} was asked: how many transfers.
UNDER_WAY = {"limit": 2, "dead": 1, "changed": 1}
#: Those that have got, or sent, some of the file when they failed.
TRANSFERS = {"nat", "firewall", "narrow", "dead", "full", "changed"}


@pytest.fixture(scope="module")
def seen(hall: Hall) -> Seen:
    """What castd says when all twelve have failed."""
    return Twelve(hall).play()


def causes(text: str) -> set[str]:
    """Return the machines whose cause is told in a text; one whose file has another case is also missing it."""
    found = {name for name, fault in FAULTS.items() if re.search(fault.cause, text)}
    return found - {"missing"} if "case" in found else found


def events(seen: Seen, name: str) -> list[Event]:
    return [event for event in seen.events if event.get("peer_address") == seen.addresses[name]]


def entries(seen: Seen, name: str, *words: str) -> list[Event]:
    """Return the entries of a machine in C{castd history --json}."""
    found = [json.loads(line) for line in seen.history[(*words, "--json")].splitlines()]
    return [entry for entry in found if entry["address"] == seen.addresses[name]]


# The places where castd says what has happened to a machine.


def fromLog(seen: Seen, name: str) -> str:
    address = seen.addresses[name]
    shown = f" [{address}]:" if ":" in address else f" {address}:"
    return "\n".join(line for line in seen.log.splitlines() if shown in line)


def fromEvents(seen: Seen, name: str) -> str:
    told = [event for event in events(seen, name) if "verdict" in event]
    # Of a refusal the reason is in C{why}.
    return "\n".join(f"{event.get('why', '')}; {event['cause']}: {event['cure']}" for event in told)


def fromHistory(seen: Seen, name: str) -> str:
    return seen.history["--client", seen.addresses[name]]


def fromFailures(failures: list[Event], address: str) -> str:
    mine = [failure for failure in failures if failure["address"] == address]
    return "\n".join(f"{failure['message']}; {failure['why']}" for failure in mine)


def fromPage(seen: Seen, name: str) -> str:
    """Return the rows of failures, with C{;} between the cells."""
    table = seen.page.partition('<h2 id="failures">')[2]
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr")[2:]]
    plain = [[html.unescape(re.sub(r"<.*?>", "", cell)) for cell in row] for row in rows]
    return "\n".join("; ".join(cells) for cells in plain if cells[1] == seen.addresses[name])


@cache
def packets(path: Path) -> list[tuple[str, ...]]:
    """Return source, destination, opcode, file, ERROR code and comment of each packet, as tshark reads them."""
    fields = ("ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tftp.opcode", "tftp.source_file", "tftp.destination_file")
    rows = byTshark(path, *fields, "tftp.error.code", "frame.comment")
    return [(row[0] or row[1], row[2] or row[3], row[4], row[5] or row[6], *row[7:]) for row in rows]


def captured(seen: Seen, name: str) -> list[tuple[str, ...]]:
    """Return the packets of a machine: in the captures of its failures, and in what C{castd record} has written."""
    address = seen.addresses[name]
    found = [row for row in packets(seen.record) if address in row[:2]]
    for path in sorted(seen.captures.glob(f"*Z-{address.replace(':', '_')}-*")):
        found += packets(path)
    return found


def fromCaptures(seen: Seen, name: str) -> str:
    return "\n".join(row[-1] for row in captured(seen, name) if row[-1])


PLACES: dict[str, Callable[[Seen, str], str]] = {
    "log": fromLog,
    "verdict": fromEvents,
    "history": fromHistory,
    "explain": lambda seen, name: seen.explained[name],
    "status": lambda seen, name: fromFailures(seen.status["failures"], seen.addresses[name]),
    "page": fromPage,
    "page as JSON": lambda seen, name: fromFailures(seen.report["failures"], seen.addresses[name]),
    "capture": fromCaptures,
}
#: The places whose lines do not repeat what they say already.
BRIEF = {"log", "history", "capture"}


@each
@pytest.mark.parametrize("place", PLACES)
def test_cause(seen: Seen, place: str, name: str) -> None:
    """Each place names this cause, with the cure, for this machine, and neither another cause nor another machine."""
    fault, told = FAULTS[name], PLACES[place](seen, name)
    text = re.sub(r".*: limits\.per-peer: \d of 2 transfers.*", "", told) if name != "limit" else told
    assert causes(text) == {name}
    (rule,) = (rule for rule in RULES if rule.id == fault.verdict)
    assert (fault.cure in told) >= (rule.told or place not in BRIEF)
    others = [address for other, address in seen.addresses.items() if other != name]
    assert [address for address in others if re.search(rf"(?<![\w.]){re.escape(address)}(?![\w.])", told)] == []


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"explain"}))
@pytest.mark.parametrize("name", ["fine", MUTE])
def test_noCause(seen: Seen, place: str, name: str) -> None:
    """No place blames a machine that has its file, nor one that has never asked."""
    assert causes(PLACES[place](seen, name)) == set()


@each
def test_verdict(seen: Seen, name: str) -> None:
    """All events of a machine have the one verdict, in the log and in the history; and so has nobody else."""
    verdict = FAULTS[name].verdict
    assert {event["verdict"] for event in events(seen, name) if "verdict" in event} == {verdict}
    failed = entries(seen, name, "--failed")
    assert {entry["fields"]["verdict"] for entry in failed} == {verdict}
    guilty = {event["peer_address"] for event in seen.events if event.get("verdict") == verdict}
    assert guilty == {seen.addresses[name]}


@each
def test_capture(seen: Seen, name: str) -> None:
    """tshark reads the capture of each machine back: its packets, those of its group, and nobody else's."""
    rows, address = captured(seen, name), seen.addresses[name]
    ends = {end for row in rows for end in row[:2]}
    assert address in ends
    assert {end for end in ends if not end.startswith(GROUPS)} <= {address, SERVER, SIXTH}
    assert any(end.startswith(GROUPS) for end in ends) == (name == "deaf")
    assert {row[3] for row in rows if row[2] in ("1", "2")} == {FAULTS[name].name}
    errors = {"missing": {"1"}, "case": {"1"}, "access": {"2"}, "full": {"3"}, "probe": {"8"}}
    sent = {row[4] for row in rows if row[4]}
    assert sent == errors.get(name, sent & {"0", "5"})


# What is asked at three in the morning.


@each
def test_didItAsk(seen: Seen, name: str) -> None:
    """The history has each machine that asked; at debug level the log has each of its requests."""
    assert entries(seen, name)
    assert {event["name"] for event in events(seen, name) if event["event"] == "request"} == {FAULTS[name].name}


def test_itDidNotAsk(seen: Seen) -> None:
    """Of a machine that never asked there is nothing, and the command says so."""
    assert seen.history["--client", seen.addresses[MUTE]] == "nothing\n"
    assert events(seen, MUTE) == []


@each
def test_forWhat(seen: Seen, name: str) -> None:
    """What a machine asked for in the last hour, to read or to write, by its own name and by what it is on the disk."""
    found = [entry["fields"] for entry in entries(seen, name, "--since", "1 h")]
    assert {(fields["name"], fields["write"]) for fields in found} == {(FAULTS[name].name, FAULTS[name].write)}
    path = seen.service.parents[1] / ("disk" if FAULTS[name].write else "shelf") / FAULTS[name].name
    # Neither a rule nor a limit lets a request come to the disk.
    expected = set() if name in ("access", "limit") else {str(path)}
    assert {fields["path"] for fields in found if "path" in fields} == expected


@each
def test_options(seen: Seen, name: str) -> None:
    """Which options a machine asked for, and which it was granted."""
    fault, found = FAULTS[name], [entry["fields"] for entry in entries(seen, name)]
    asked = {option for fields in found for option in fields.get("options", "").split()}
    granted = {option for fields in found for option in (fields.get("granted") or "").split()}
    assert asked >= set(fault.options)
    assert granted >= set(fault.granted)
    if name in ("nat", "firewall", "dead", "full", "limit"):
        assert (asked, granted) == (set(), set())
    if name in ("missing", "case", "access"):
        assert granted == set()


def line(seen: Seen, text: str) -> str:
    """Return C{file:line} of the first line of the service file that has this text."""
    lines = seen.service.read_text().splitlines()
    return f"{seen.service}:{next(number for number, shown in enumerate(lines, 1) if text in shown)}"


@each
def test_whichRule(seen: Seen, name: str) -> None:
    """Which access rule, limit or path stood against it, with file and line; for all others none did."""
    found = [event for event in events(seen, name) if "verdict" in event]
    against = {key: {event[key] for event in found if key in event} for key in ("rule", "limit", "nearest")}
    expected: dict[str, set[str]] = {"rule": set(), "limit": set(), "nearest": set()}
    expected |= {
        "access": {"rule": {line(seen, "- deny: any")}},
        "limit": {"limit": {"limits.per-peer"}},
        "case": {"nearest": {"case.img"}},
    }.get(name, {})
    assert against == expected
    decisive = {
        "missing": f"{line(seen, 'path: ' + str(seen.service.parents[1] / 'shelf'))}: content[0].directory.path: looks",
        "case": f"{line(seen, '- directory')}: content[0].directory: ",
        "access": f"{line(seen, '- deny: any')}: access[0]: denies it",
        "limit": f"{line(seen, 'per-peer: 2')}: limits.per-peer: is reached",
        "full": f"{seen.service}:6: uploads[0].directory: does not take it",
    }.get(name, f"{line(seen, '- allow: any')}: access[1]: allows it")
    assert decisive in seen.explained[name]


@each
def test_wouldGet(seen: Seen, name: str) -> None:
    """What the machine would get for this name now; that there is nothing against it is an answer as well."""
    verdicts = {
        "missing": "refused by tftp: ERROR 1 File not found",
        "case": "refused by tftp: ERROR 1 File not found",
        "access": "refused by tftp: ERROR 2 Access violation",
        "full": "refused by tftp: ERROR 3 Disk full or allocation exceeded",
        "limit": "not answered",
        "narrow": "served by six with OACK",
    }
    (verdict,) = re.findall(r"^  verdict    (.*)$", seen.explained[name], re.MULTILINE)
    assert verdict.startswith(verdicts.get(name, "served by tftp with "))
    assert ("does not serve it: deaf" in seen.explained[name]) == (name == "deaf")
    assert ("source     0 octets" in seen.explained[name]) == (name == "changed")


@each
def test_whichMachine(seen: Seen, name: str) -> None:
    """
    Which MAC asked, as its own network shows it, and which firmware, as far as it has said so: the machine that has the
    address now, and in the history the one that had it when it failed.
    """
    (told,) = re.findall(r"^machine      (.*)$", seen.explained[name], re.MULTILINE)
    mac, arch = seen.macs[name], "efi-x64" if name == "missing" else None
    if name in NO_NEIGHBOURS:
        assert told.startswith("not known: ") or told == f"MAC {mac}"
    else:
        assert told == f"MAC {mac}" + (f", architecture {arch}" if arch else "")
    then = {(entry["fields"].get("mac"), entry["fields"].get("arch")) for entry in entries(seen, name, "--failed")}
    # Behind a router without NAT only that has the address of the machine.
    assert then == {(None if name == "narrow" else mac, arch)}


def test_bootStory(seen: Seen) -> None:
    """By its MAC a machine is found from its DHCP request on: it came for another file than it was told."""
    told = seen.history["--client", seen.macs["missing"]].splitlines()
    assert len(told) == 3
    assert "offered fine.img" in told[0]
    assert "is refused missing.img" in told[1]
    assert "was told fine.img, and has never fetched it; the answer did not reach it" in told[2]


@pytest.mark.parametrize("name", UNDER_WAY)
def test_howFar(seen: Seen, name: str) -> None:
    """While a transfer is under way: when it began, how far it is, how fast."""
    casts = [cast for address in seen.early["addresses"] for cast in address["casts"]]
    mine = [cast for cast in casts if cast["receivers"][0]["peer"].startswith(f"{seen.addresses[name]}:")]
    assert len(mine) == UNDER_WAY[name]
    for cast in mine:
        (receiver,) = cast["receivers"]
        assert (receiver["name"], cast["size"]) == (FAULTS[name].name, SLOW_OCTETS)
        assert 3 < receiver["sent"] < receiver["needed"] == SLOW_OCTETS // 512 + 1
        assert 0 < receiver["seconds"] < seen.early["seconds"]
        assert cast["octets"] >= receiver["sent"] * 512


def test_howFast(seen: Seen) -> None:
    """The page has the rates of those that are still under way: two of one machine, and of no other."""
    rates = {(each["receivers"][0]["peer"].partition(":")[0], each["rate"] > 0) for each in seen.report["transfers"]}
    assert rates == {(seen.addresses["limit"], True)}
    assert len(seen.report["transfers"]) == 2


@pytest.mark.parametrize("name", sorted(TRANSFERS))
def test_howFarItCame(seen: Seen, name: str) -> None:
    """Of a transfer that has failed: how long it took, when its first block went, how much of the file it was."""
    for entry in entries(seen, name, "--failed"):
        fields = entry["fields"]
        assert 0 < fields["seconds"] < 90
        assert 0 <= fields["first_block"] <= fields["seconds"]
        assert 0 < fields["octets"] < SLOW_OCTETS


def test_nothingIsMissing(seen: Seen) -> None:
    """No line was left out or lost, and each event of a machine in the log is in the history."""
    assert seen.status["history"]["lost"] == seen.report["server"]["lost"] == 0
    assert {event["event"] for event in seen.events} & {"left-out", "lost-lines", "unkept"} == set()
    for name in FAULTS:
        logged = {event["event"] for event in events(seen, name) if event["level"] != "debug"}
        assert logged == {entry["event"] for entry in entries(seen, name)}


def test_whichServiceFile(seen: Seen) -> None:
    """Which service file is in force, and since when: its path and its digest, by the command and on the page."""
    digest, server = hashlib.sha256(seen.service.read_bytes()).hexdigest(), seen.report["server"]
    for told in (seen.status, server):
        assert (told["file"], told["sha256"]) == (str(seen.service), digest)
    (started,) = (event for event in seen.events if event["event"] == "started")
    since = datetime.fromisoformat(server["inForce"]) - datetime.fromisoformat(started["time"])
    assert abs(since.total_seconds()) < 10
    assert 0 < seen.status["inForceSeconds"] <= seen.status["seconds"]
    assert datetime.fromisoformat(server["inForce"]) < datetime.now(UTC)
    assert str(seen.service) in seen.page
    assert digest in seen.page


def test_atTheSameTime(seen: Seen) -> None:
    """All twelve asked before the first of those that take longest was given up."""
    first = {name: min(event["time"] for event in events(seen, name)) for name in FAULTS}
    last = {name: max(event["time"] for event in events(seen, name) if "verdict" in event) for name in FAULTS}
    assert len([name for name, time in last.items() if time > max(first.values())]) > len(FAULTS) // 2
