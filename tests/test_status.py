"""
What a running server tells of itself, without a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zope.interface import directlyProvides

from castd.cli.status import deafLine
from castd.interfaces import ILiveTransfer
from castd.observe.metrics import Counters, Gauges
from castd.observe.report import Reporter, Sources
from castd.observe.status import transferStatus
from castd.testing import Network, RecordingClient, memorySite
from tests.support.descriptors import Descriptors
from tests.support.log import observed
from tests.support.server import START, TFTP, Case, pageOf, statusOf

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"


@pytest.mark.slow
def test_onTheFastPath(tmp_path: Path) -> None:
    """A receiver in step, of whose blocks no cast is told, is shown as far as it is; and looking changes nothing."""
    (tmp_path / "boot").mkdir()
    body = bytes(range(256)) * 200
    (tmp_path / "boot" / "file").write_bytes(body)
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0", (SERVER, 69))
    found = b""
    for number in range(1, len(body) // 512 + 1):
        letter = box.expect()
        found += letter.datagram[4:]
        (address,) = statusOf(case.server)["addresses"]
        (cast,) = address["casts"]
        assert (cast["blocks"], cast["repeats"], cast["octets"]) == (number, 0, len(found))
        assert [each["sent"] for each in cast["receivers"]] == [number]
        box.send(b"\0\4" + letter.datagram[2:4], letter.source)
    assert found == body


def test_resources(tmp_path: Path) -> None:
    """What the server holds is told, and goes back to what it was."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(b"")
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    network.advance(1)
    opened = Descriptors()
    before = statusOf(case.server)["held"]
    assert before.pop("descriptors") > 2
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0", (SERVER, 69))
    letter = box.expect()
    held = statusOf(case.server)["held"]
    assert (held["casts"], held["receivers"], held["alarms"], held["looking"]) == (1, 1, 1, 0)
    assert held["calls"] > before["calls"]
    assert opened.left() == [str(tmp_path / "boot" / "file")]
    box.send(b"\0\4\0\1", letter.source)
    network.advance(60)
    after = statusOf(case.server)["held"]
    del after["descriptors"]  # others' may be closed meanwhile
    assert after == before
    assert opened.left() == []


def test_alarmsOfRequestPorts(tmp_path: Path) -> None:
    """A machine that has asked for a size only is waited for without a cast: that is an alarm of a request port."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(b"x")
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0tsize\x000\0", (SERVER, 69))
    letter = box.expect()
    box.send(b"\0\5\0\x08\0", letter.source)
    network.advance(1)
    held = statusOf(case.server)["held"]
    assert (held["casts"], held["alarms"]) == (0, 1)
    network.advance(30)
    assert statusOf(case.server)["held"]["alarms"] == 0


def test_elsewhere() -> None:
    """What a transport from elsewhere has under way is shown and counted, even if it tells nothing of itself."""

    class Transport:
        def casts(self) -> list[object]:
            return [object(), object()]

    shown = transferStatus(object(), 5.0)
    assert (shown["kind"], shown["name"], shown["receivers"]) == ("other", None, [])
    counters, site = Counters(), memorySite(Network(), {})
    counters.register(Gauges(counters.labels, lambda: [Transport()], site))
    page = pageOf(counters).decode()
    assert f"castd_alarms {len(site.timers)}.0" in page
    assert 'castd_casts{kind="other",transport="other"} 2.0' in page
    assert 'castd_receivers{transport="other"} 2.0' in page


class Untold:
    """A plugin's transport, transfer and service, which fails to tell of itself or tells nonsense."""

    def __init__(self, fails: Callable[[], Any], castsFail: bool) -> None:
        self._fails, self._castsFail = fails, castsFail
        self.name, self.kind, self.fileName, self.size, self.group, self.opened = "plugin", "unicast", "f", 1, None, 0.0
        self.address, self.entries, self.retiring, self.transport = "*:1", (), False, self
        self.port, self.required = None, False

    @property
    def counts(self) -> Any:
        return self._fails()

    def casts(self) -> Any:
        return self._fails() if self._castsFail else [self]

    def progress(self) -> Any:
        return self._fails()

    liveReceivers = progress


def exits() -> None:
    """Raise what ends a program."""
    raise SystemExit


@pytest.mark.parametrize("castsFail", [True, False])
@pytest.mark.parametrize("fails", [lambda: 1 // 0, exits, lambda: None], ids=["bug", "exit", "nonsense"])
def test_cannotTell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[], Any], castsFail: bool) -> None:
    """What a plugin cannot tell of itself is logged, and hides nothing of all others: not on the page either."""
    (tmp_path / "boot").mkdir()
    case = Case(tmp_path, Network(), START + TFTP)
    untold: Any = Untold(fails, castsFail)
    if not castsFail:
        directlyProvides(untold, ILiveTransfer)
    monkeypatch.setattr(case.server, "addresses", (*case.server.addresses, untold))
    monkeypatch.setattr(case.server, "portServices", ((untold, untold),))
    events: list[Any] = []
    with observed(events.append):
        status = statusOf(case.server)
        sources = Sources(case.server.facts, lambda: case.server.addresses, case.server.lastFailures)
        counters, transports = Counters(), [each.transport for each in case.server.addresses]
        counters.register(Gauges(counters.labels, lambda: transports, case.server.site, lambda: [("plugin", untold)]))
        page = pageOf(counters).decode()
        reported: Any = []
        Reporter(case.server.site.reactor, sources, case.server.site.slices).report().addCallback(reported.append)
        case.network.advance(0.1)
    (shown,) = reported
    known = [] if castsFail else [("other", None)]
    assert [[each["address"] for each in status["addresses"]], status["services"]] == [["*:69", "*:1"], {"plugin": {}}]
    for casts in (status["addresses"][1]["casts"], shown["transfers"]):
        assert [(each["kind"], each["name"]) for each in casts] == known
    assert 'castd_casts{kind="other",transport="other"}' in page or castsFail
    assert shown["count"] == len(known)
    assert {each["event"] for each in events if "log_failure" in each} == {"fault"}


@pytest.mark.parametrize("counts", [{"rivals": "many"}, {"rivals": None}, {1: 1}, {"rivals": object()}])
def test_countsAreNumbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[Any, Any]) -> None:
    """A service that counts in something other than numbers is a fault, and hides neither the status nor the page."""
    (tmp_path / "boot").mkdir()
    case = Case(tmp_path, Network(), START + TFTP)
    untold: Any = Untold(lambda: counts, False)
    monkeypatch.setattr(case.server, "portServices", ((untold, untold),))
    events: list[Any] = []
    with observed(events.append):
        assert statusOf(case.server)["services"] == {"plugin": {}}
        counters = Counters()
        counters.register(Gauges(counters.labels, list, case.server.site, lambda: [("plugin", untold)]))
        assert "castd_alarms 0.0" in pageOf(counters).decode()
    assert [each["event"] for each in events] == ["fault", "fault"]


def test_deafMachines(tmp_path: Path) -> None:
    """The machines that are in no group are told, for how long, and no longer than that."""
    (tmp_path / "boot").mkdir()
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    case.server.site.deafMachines.remember("10.0.0.7", 245.0, network.seconds())
    case.server.site.deafMachines.remember("10.0.0.8", 5.0, network.seconds())
    assert statusOf(case.server)["deaf"] == [
        {"host": "10.0.0.7", "seconds": 245.0},
        {"host": "10.0.0.8", "seconds": 5.0},
    ]
    network.advance(5)
    (machine,) = deaf = statusOf(case.server)["deaf"]
    assert machine["host"] == "10.0.0.7"
    assert deafLine(deaf) == "in no group, as they hear none: 10.0.0.7 (for 4:00)"
