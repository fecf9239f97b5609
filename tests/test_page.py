"""
The page of the metrics address: it says what is under way and what has failed, harms nobody who looks, and holds up
no transfer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.cast.blockmap import CellState
from castd.errors import ConfigError
from castd.files.names import printable
from castd.interfaces import ILiveTransfer, IMappedTransfer, LiveReceiver, MemberMap
from castd.observe import page, report
from castd.observe.format import showInstant
from castd.observe.metrics import CountedEntry, Counters, Gauges, MetricsPage, scraper
from castd.observe.page import HEADERS, hostOf, isLoopback, pageResources
from castd.observe.report import MOST_GROUPS, MOST_MEMBERS, MOST_TRANSFERS, Reporter, Sources, versions
from castd.observe.web import MetricsSite
from castd.packets.tftp import buildAck
from castd.service.admin import ControlFactory
from castd.service.service import read
from castd.slices import SLICE, Slices
from castd.testing import Network, RecordingClient, memorySite
from tests.support.log import observed
from tests.support.server import CLIENT, COLLECTED, SERVER, START, TFTP, Case, pageOf, statusOf
from tests.support.stage import GroupStage

STATIC = Path(page.__file__).with_name("static")
PATHS = ("/", "/status.json", "/page.css", "/page.js", "/icon.svg")

#: What somebody may call a file: markup, quotes, an octet of 0, marks of direction, octets that are no UTF-8.
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</td></tr></table><!--",
    "&lt;b&gt; &amp;",
    "nul\0nul",
    "\u202egpj.exe\u2066\u200f",
    "\udcff\udcfe\ud800",
    "line\nfeed\r\ttab\x1b[31m",
    "{{7*7}} ${7*7} <t:slot name='x'/>",
)


@implementer(ILiveTransfer)
class Transfer:
    """A transfer by unicast, of so many octets so far."""

    kind, group, size = "unicast", None, 1000

    def __init__(
        self, name: str = "kernel", host: str = "10.0.0.9", octets: int = 512, transport: str = "tftp"
    ) -> None:
        self.name, self.fileName, self.octets, self.opened = transport, name, octets, 0.0
        self._host = host

    def progress(self) -> tuple[int, int, int]:
        return 1, 0, self.octets

    def liveReceivers(self) -> list[LiveReceiver]:
        return [LiveReceiver((self._host, 2000), self.fileName, 1, 2, 0.0)]


@implementer(IMappedTransfer)
class GroupTransfer(Transfer):
    """A group of so many members."""

    kind, group = "group", ("239.255.0.1", 1758)

    def __init__(self, members: int, cells: str = "##++--..") -> None:
        super().__init__()
        self._cells = cells
        self._peers = [(f"10.0.{at >> 8}.{at & 255}", 2000) for at in range(members)]

    def liveReceivers(self) -> list[LiveReceiver]:
        return [LiveReceiver(peer, self.fileName, 1, 800, 0.0) for peer in self._peers]

    def mapMembers(self, width: int, most: int) -> Iterator[MemberMap | None]:
        for peer in self._peers[:most]:
            yield None
            yield MemberMap(peer, 600, self._cells)


class Address:
    """An address with these transfers under way."""

    address, entries, retiring, required = "0.0.0.0:69", (), False, False
    port = None

    def __init__(self, casts: list[Any]) -> None:
        self._casts = casts
        self.transport: Any = self

    def casts(self) -> Iterator[Any]:
        return iter(self._casts)


def facts(wallTime: float) -> Any:
    """Return what is said of a server."""
    return {
        **versions(Clock()),
        "pid": 7,
        "state": "serving",
        "unready": None,
        "since": "2026-11-26T21:00:00.000+00:00",
        "file": "/etc/castd.yaml",
        "sha256": "5" * 64,
        "inForce": "2026-11-26T21:30:00.000+00:00",
        "history": None,
        "lost": 0,
    }


def found(**fields: Any) -> Any:
    """Return an entry of the history."""
    return {
        "time": "2026-11-26T21:12:00.000+00:00",
        "address": "10.0.0.9",
        "name": "kernel",
        "event": "refused",
        "failed": True,
        "times": 1,
        "message": "tftp: 10.0.0.9:2000 is refused kernel: not there",
        "fields": {},
        **fields,
    }


class Answer:
    """An answer by HTTP, as it came over the wire."""

    def __init__(self, wire: bytes) -> None:
        head, _, self.body = wire.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def text(self) -> str:
        return self.body.decode()


class Web:
    """The pages of a metrics address, asked as a browser asks: by the octets of HTTP."""

    def __init__(
        self,
        casts: list[Any] | None = None,
        failures: Callable[[int], Deferred[Any]] = lambda most: succeed([]),
        seconds: Callable[[], float] = lambda: 0.0,
        refusal: Callable[[str], tuple[int, str] | None] = lambda host: None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.looks = 0
        self.addresses = [Address(casts or [])]
        reporter = Reporter(
            self.clock,
            Sources(facts, self._looked, failures),
            Slices(self.clock, seconds),
            lambda: 1_795_728_720.0 + self.clock.seconds(),
        )
        resources = pageResources(self.clock, reporter, refusal)
        root = MetricsPage(lambda: succeed(b""), lambda: succeed(None), resources)
        self.site = MetricsSite(root)
        self.site.reactor = self.clock

    def _looked(self) -> list[Any]:
        self.looks += 1
        return self.addresses

    def begin(self, path: str = "/", method: str = "GET", host: str = "127.0.0.1:9147") -> StringTransport:
        """Send a request.  -> where the answer will be."""
        transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 50000))
        connection = self.site.buildProtocol(None)
        connection.makeConnection(transport)
        connection.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return transport

    def turns(self, transport: StringTransport, most: int = 100_000) -> int:
        """Run the event loop until there is an answer.  -> how often it has turned."""
        for turn in range(most):
            if transport.value():
                return turn
            self.clock.advance(0)
        raise AssertionError("no answer")

    def get(self, path: str = "/", method: str = "GET", host: str = "127.0.0.1:9147") -> Answer:
        """Ask, and wait for the answer."""
        transport = self.begin(path, method, host)
        self.turns(transport)
        return Answer(transport.value())


class Outline(HTMLParser):
    """
    Reads a page as a browser does.

    @ivar tags: each tag with its attributes' names, in order.
    @ivar text: all text.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.text = ""
        self.comments = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += 1


def test_whatIsUnderWay() -> None:
    """The page and its JSON name each machine, its file, how far it is and how fast, and the server and its file."""
    web = Web([Transfer("kernel", octets=512), Transfer("initrd", "10.0.0.10", 0)])
    web.clock.advance(64)
    shown = Outline(web.get().text).text
    for text in ("10.0.0.9:2000", "kernel", "1 of 2", "8 B/s", "1:04", "initrd", "2 transfers, 2 machines", "5" * 64):
        assert text in shown
    assert "/etc/castd.yaml, in force since 2026-11-26 21:30:00 UTC" in shown
    told = json.loads(web.get("/status.json").body)
    assert [each["name"] for each in told["transfers"]] == ["kernel", "initrd"]
    assert (told["count"], told["server"]["sha256"], told["rate"]) == (2, "5" * 64, 8.0)


def test_rates() -> None:
    """The second look has the rate since the first one; the first, and one after a long time, that since the begin."""
    transfer = Transfer(octets=100)
    web = Web([transfer])

    def rate() -> float:
        found: float = json.loads(web.get("/status.json").body)["transfers"][0]["rate"]
        return found

    web.clock.advance(10)
    assert rate() == 10.0
    web.clock.advance(2)
    transfer.octets = 1100
    assert rate() == 500.0
    web.clock.advance(report.LONGEST_LOOK + 1)
    assert rate() == round(1100 / (12 + report.LONGEST_LOOK + 1), 1)


def test_groups(tmp_path: Path) -> None:
    """A group has a row for each member: what it has, as a drawing and in words; no colour alone tells states apart."""
    web = Web([GroupTransfer(3)])
    html = web.get().text
    shown = Outline(html)
    assert "200 of 800" in shown.text
    assert "has 1–200, may have 201–400, in part 401–600, lacks 601–800" in shown.text
    assert "kernel, 800 blocks, at 239.255.0.1:1758 (tftp)" in shown.text
    assert html.count('class="map"') == 3
    assert len({value for _, value in page.BARS.items()}) == len(CellState)


@pytest.mark.parametrize("faulty", ["group", "liveReceivers", "mapMembers"])
@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_aGroupThatCannotTell(faulty: str, kind: type[BaseException]) -> None:
    """What fails to tell of a group, as the cast of a plugin may, hides nothing of all others."""

    def fail(*_: object) -> Any:
        raise kind

    def failLater(transfer: GroupTransfer, *_: object) -> Iterator[MemberMap]:
        yield MemberMap(transfer._peers[0], 600, "#")
        raise kind

    bug: Any = {"group": property(fail), "liveReceivers": fail, "mapMembers": failLater}[faulty]
    unable: Any = type("Unable", (GroupTransfer,), {faulty: bug})(3)
    events: list[Any] = []
    with observed(events.append):
        told = json.loads(Web([unable, GroupTransfer(2)]).get("/status.json").body)
    assert told["count"] == 2
    assert [len(each["members"]) for each in told["groups"]] == ([1, 2] if faulty == "mapMembers" else [2])
    assert {each["event"] for each in events} == {"fault"}


def test_failures() -> None:
    """What failed last comes first, with its verdict where there is one."""
    why = "nothing but its request was heard: a firewall? set single-port"
    cause, _, cure = why.partition(": ")
    told = {"verdict": "unanswered", "cause": cause, "cure": cure}
    failures = [found(), found(message=f"tftp: 10.0.0.7:1 initrd: silent; {why}", times=3, fields=told)]
    web = Web(failures=lambda most: succeed(failures))
    shown = Outline(web.get().text).text
    assert shown.index("initrd: silent (3 times)") < shown.index("is refused kernel")
    assert shown.count(why) == 1
    failed = json.loads(web.get("/status.json").body)["failures"]
    assert [(each["verdict"], each["why"]) for each in failed] == [("unanswered", why), (None, None)]


@pytest.mark.parametrize("end", ["; {}: put it there", ": {}"])
@pytest.mark.parametrize("cause", ["no source has it", "a\nb"])
def test_theVerdictIsSaidOnce(cause: str, end: str) -> None:
    """A failure whose line ends with its verdict or its cause, perhaps escaped, is shown without that end."""
    told = found(
        message=printable("x: silent" + end.format(cause)),
        fields={"verdict": "missing", "cause": cause, "cure": "put it there"},
    )
    (failed,) = json.loads(Web(failures=lambda most: succeed([told])).get("/status.json").body)["failures"]
    assert (failed["message"], failed["why"]) == ("x: silent", f"{cause}: put it there")


def test_historyOfASlowDisk() -> None:
    """A history that does not answer keeps nobody from seeing the rest; nor does one that is broken."""
    web = Web([Transfer()], failures=lambda most: Deferred())
    asked = web.begin()
    web.clock.advance(report.PATIENCE)
    web.turns(asked)
    assert "The history does not answer now." in Answer(asked.value()).text
    assert json.loads(web.get("/status.json").body)["failures"] is None


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostileNames(name: str) -> None:
    """Whatever a stranger calls a file or a machine is text on the page, and none that hides or turns other text."""
    plain, told = (
        ([Transfer("kernel"), GroupTransfer(1)], [found(fields={"verdict": "why", "cause": "a", "cure": "b"})]),
        found(),
    )
    hostile = [Transfer(name, name, transport=name), GroupTransfer(1)]
    hostile[1].fileName = hostile[1].name = name
    told = found(address=name, name=name, message=name, fields={"verdict": name, "cause": name, "cure": name})
    pages = [
        Web(casts, failures=lambda most, entries=entries: succeed(entries)).get().text  # type: ignore[misc]
        for casts, entries in (plain, (hostile, [told]))
    ]
    harmless, shown = Outline(pages[0]), Outline(pages[1])
    assert shown.tags == harmless.tags
    assert shown.comments == 0
    assert all(each.isprintable() or each == "\n" for each in pages[1])
    if name.isprintable():
        # In two rows of transfers, a caption, and in the row of the failure.
        assert shown.text.count(name) >= 6
    assert json.loads(Web(hostile).get("/status.json").body)["transfers"][0]["name"] == name


@pytest.mark.slow
def test_bounded() -> None:
    """Of thousands of transfers some hundred are shown, and how many more there are; also of groups and members."""
    web = Web([Transfer(f"f{at}") for at in range(5000)] + [GroupTransfer(300) for _ in range(MOST_GROUPS + 5)])
    html = web.get().text
    assert len(html) < 500_000
    shown = Outline(html).text
    assert "5,025 transfers" in shown
    assert f"and {5025 - MOST_TRANSFERS:,} transfers more" in shown
    assert "and 5 groups more" in shown
    assert f"and {300 - MOST_MEMBERS} members more" in shown
    told = json.loads(web.get("/status.json").body)
    assert (len(told["transfers"]), told["moreTransfers"]) == (MOST_TRANSFERS, 5025 - MOST_TRANSFERS)
    assert sum(len(each["members"]) for each in told["groups"]) == report.MOST_MAPS


class Looks(Clock):
    """
    The clock of an event loop that notes the slices.

    @ivar slices: how many looks at the time there were in each.
    """

    GLANCE = 0.0001  # what the work between two looks at the time may take

    def __init__(self) -> None:
        super().__init__()
        self._now, self._looks, self.slices = 0.0, 0, list[int]()

    def look(self) -> float:
        """The clock that slices are measured by."""
        self._now, self._looks = self._now + self.GLANCE, self._looks + 1
        return self._now

    def callLater(self, delay: float, call: Callable[..., object], *given: Any, **named: Any) -> Any:
        def noted() -> None:
            before = self._looks
            call(*given, **named)
            self.slices.append(self._looks - before)

        return super().callLater(delay, noted)

    def check(self, steps: int) -> None:
        """Check that so many steps, or more, were made in slices, each of which ended when its time was over."""
        assert sum(self.slices) >= steps
        assert max(self.slices) <= SLICE / self.GLANCE + 5
        assert len(self.slices) >= steps * self.GLANCE / SLICE


def test_inPieces() -> None:
    """The event loop turns all the time that a page is made: each slice ends when its time is over."""
    clock = Looks()
    web = Web([Transfer(f"f{at}") for at in range(5000)], seconds=clock.look, clock=clock)
    asked = web.begin()
    web.turns(asked)
    assert Answer(asked.value()).status == 200
    clock.check(5000)


def test_aGroupInPieces() -> None:
    """So does it within the rows of one group, of which each machine has one."""
    clock = Looks()
    web = Web([GroupTransfer(1000)], seconds=clock.look, clock=clock)
    asked = web.begin()
    web.turns(asked)
    assert Answer(asked.value()).status == 200
    # Each is described, and has a map, a row among the transfers, and one in its group.
    clock.check(4 * MOST_MEMBERS)


def test_statusInPieces(tmp_path: Path) -> None:
    """
    The answer to C{castd status} is gathered and encoded in slices, too, also where one group has all the receivers; it
    is what one piece would be, and what begins meanwhile is not in it.
    """
    (tmp_path / "boot").mkdir()
    network, clock = Network(), Looks()
    case = Case(tmp_path, network, START + TFTP)
    case.server.site.slices = Slices(clock, clock.look)
    casts = [*(Transfer(f"f{at}") for at in range(1000)), GroupTransfer(1000)]
    case.server.addresses = (Address(casts),)  # type: ignore[assignment]
    factory = ControlFactory(network, case.server.admin._answers, case.server.site.slices)
    link, connection = StringTransport(), factory.buildProtocol(None)
    connection.makeConnection(link)
    connection.dataReceived(b'{"do": "status"}\n')
    casts.append(Transfer("later"))
    clock.advance(0)
    clock.check(4000)
    del casts[-1]
    whole = {**statusOf(case.server), "failures": []}
    answer = json.loads(link.value())
    assert link.value() == json.dumps(answer).encode() + b"\n"
    assert list(answer) == list(whole)
    assert answer["addresses"] == whole["addresses"]


@pytest.mark.slow
def test_scrapeInPieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A scrape reads the transfers in slices, and a thread makes the text and lists the descriptors: it is the text that
    one piece would be.  Those who ask at the same time share one.
    """
    clock = Looks()
    casts = [*(Transfer(f"f{at}") for at in range(2000)), GroupTransfer(100)]
    counters = Counters(lambda: [CountedEntry(f"t{at}") for at in range(20)])
    counters.register(Gauges(counters.labels, lambda: [Address(casts)], memorySite(Network(), {})))  # type: ignore[list-item]
    threads: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def thread(function: Callable[[], Any], /) -> Deferred[Any]:
        threads.append((function, Deferred()))
        return threads[-1][1]

    listed: list[object] = []
    for name in ("listdir", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, real=real: listed.append(path) or real(path))
    scrape, told = scraper(clock, counters, Slices(clock, clock.look), thread), list[bytes]()
    for _ in range(2):
        scrape().addCallback(told.append)
    clock.pump([0] * 300)
    clock.check(2000)
    assert listed == []
    ((text, made),) = threads
    made.callback(text())
    assert len(told) == 2
    pages = [[line for line in page.splitlines() if b"castd_" in line] for page in (*told, pageOf(counters))]
    assert pages[0] == pages[1] == pages[2]
    assert b'castd_casts{kind="unicast",transport="tftp"} 2000.0' in pages[0]
    assert b'castd_receivers{transport="tftp"} 2100.0' in pages[0]


def test_onlyWhenAsked() -> None:
    """Nothing is looked at, and no timer runs, unless somebody asks; all who ask at once share one look."""
    web = Web([Transfer()])
    web.clock.advance(1000)
    assert (web.looks, web.clock.getDelayedCalls()) == (0, [])
    asked = [web.begin(path) for path in ("/", "/", "/status.json", "/") for _ in range(5)]
    for each in asked:
        web.turns(each)
    assert web.looks == 1
    web.clock.advance(report.FRESH + 1)
    web.get()
    assert web.looks == 2


def test_whoGivesUp() -> None:
    """Who does not wait for a report any more is forgotten; the report is gathered once all the same, or fails once."""
    making, told = list[Deferred[str]](), list[object]()

    def make() -> Deferred[str]:
        making.append(Deferred())
        return making[-1]

    shared = report.Shared(Clock(), make, report.FRESH)
    for result in (RuntimeError("no report"), "report"):
        shared.get().addErrback(lambda _: None).cancel()
        shared.get().addBoth(lambda each: told.append(each if isinstance(each, str) else each.value))
        making[-1].callback(Failure(result) if isinstance(result, Exception) else result)
        assert told[-1] == result
    assert len(making) == 2
    shared.get().addCallback(told.append)
    assert (told[-1], len(making)) == ("report", 2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_methods(path: str, method: str) -> None:
    """The page is only looked at, and each answer forbids what is not needed: frames, foreign scripts, caches."""
    answer = Web().get(path, method)
    assert answer.status == (200 if method in ("GET", "HEAD") else 405)
    assert (answer.headers.get("allow"), answer.body == b"") == (
        (None, method == "HEAD") if answer.status == 200 else ("GET, HEAD", False)
    )
    assert HEADERS.items() <= answer.headers.items()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_refused() -> None:
    """Who may not see the page gets none of its parts, and the reason; the metrics are served all the same."""
    web = Web(refusal=lambda host: (403, f"not as {host}") if host == "evil.example" else None)
    for path in PATHS:
        answer = web.get(path, host="evil.example:9147")
        assert (answer.status, answer.body) == (403, b"not as evil.example\n")
        assert HEADERS.items() <= answer.headers.items()
    assert web.get("/metrics", host="evil.example:9147").status == 200
    assert web.get().status == 200


def test_fault() -> None:
    """A fault while the page is made is an answer as well, and it is logged; the next page is made anew."""
    web = Web([Transfer()])
    web.addresses = [object()]
    with logged() as events:
        assert web.get().status == 500
    assert [event["event"] for event in events if "log_failure" in event] == ["fault"]
    web.addresses = []
    assert web.get().status == 200


@contextmanager
def logged() -> Iterator[list[Any]]:
    """Collect what is logged."""
    events: list[Any] = []
    with observed(events.append):
        yield events


@pytest.mark.parametrize(
    ("every", "refresh"), [("5", "5"), ("0", None), ("3601", None), ("x", None), ("5%3Burl=//e", None)]
)
def test_everySeconds(every: str, refresh: str | None) -> None:
    """Without scripts a browser can be told to look again, and nothing else."""
    assert Web().get(f"/?every={every}").headers.get("refresh") == refresh


@pytest.mark.parametrize(
    ("header", "local"),
    [
        ("127.0.0.1:9147", True),
        ("127.9.9.9", True),
        ("localhost:9147", True),
        ("LOCALHOST.", True),
        ("castd.localhost:1", True),
        ("[::1]:9147", True),
        ("[::ffff:127.0.0.1]", True),
        ("evil.example:9147", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example@127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("[::", False),
        ("", False),
    ],
)
def test_hosts(header: str, local: bool) -> None:
    """Only the names and addresses by which a machine calls itself are those of a page on loopback."""
    assert isLoopback(hostOf(header)) is local


def test_nothingFromElsewhere() -> None:
    """The page works without the internet: nothing in it has an address of another server, or is inline."""
    for each in STATIC.iterdir():
        text = re.sub(r'xmlns(:t)?="[^"]*"', "", each.read_text())
        assert re.findall(r"//[a-z]|url\(|@import|data:", text) == [], each.name
    html = Web([Transfer(), GroupTransfer(2)]).get().text
    assert "style=" not in html
    assert re.findall(r"<script[^>]*>[^<]+|<style", html) == []
    assert re.findall(r"\son[a-z]+=", html) == []


def test_accessible() -> None:
    """The page has a language, headings in order, tables with captions, and cells that name their row and column."""
    html = Web([Transfer(), GroupTransfer(2)], failures=lambda most: succeed([found()])).get().text
    shown = Outline(html)
    assert ("html", "lang", "en") in shown.values
    headings = [tag for tag, _ in shown.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings == ["h1", "h2", "h2", "h2", "h2"]
    tables = html.split("<table")[1:]
    assert len(tables) == 3
    for table in tables:
        assert "<caption>" in table
        assert re.search(r'<th [^>]*scope="col"', table)
        assert re.search(r'<th [^>]*scope="row"', table)
        assert [cell for cell in re.findall(r"<th[ >][^>]*>", table) if "scope=" not in cell] == []
    ids = [value for _, name, value in shown.values if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in shown.values:
        if name == "aria-labelledby" or (name == "href" and value.startswith("#")):
            assert value.removeprefix("#") in ids


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast() -> None:
    """Text and its ground differ enough to be read, by day and by night; so do the bars of the maps."""
    style = (STATIC / "page.css").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in re.findall(r":root \{([^}]*)\}", style)]
    assert len(schemes) == 2
    for scheme in schemes:
        for text in ("text", "quiet", "link"):
            for ground in ("ground", "band"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
        for bar in ("has", "sent", "partly", "lacks"):
            assert contrast(scheme[bar], scheme["band"]) >= 3, bar
    # No rule has a colour of its own that this test would not see.
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", style)) == {color for scheme in schemes for color in scheme.values()}


def test_aServer(tmp_path: Path) -> None:
    """A whole server tells its page which file is in force since when, and what has failed; a reload shows."""
    (tmp_path / "boot").mkdir()
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    began = network.seconds()

    def facts() -> Any:
        return case.server.facts(1_795_728_720.0 + network.seconds() - began)

    first = facts()
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1<b>no such file</b>\0octet\0", (SERVER, 69))
    box.expect()
    network.advance(began + 5 - network.seconds())
    assert case.reload(START + TFTP + "# more\n") == ()
    second = facts()
    assert first["since"] == first["inForce"] == second["since"] == showInstant(1_795_728_720.0)
    assert second["inForce"] == showInstant(1_795_728_725.0)
    assert first["sha256"] != second["sha256"]
    status = statusOf(case.server)
    assert (status["sha256"], status["inForceSeconds"]) == (second["sha256"], 0.0)
    failures: list[Any] = []
    case.server.lastFailures(10).addCallback(failures.extend)
    assert [(each["event"], each["name"]) for each in failures] == [("refused", "<b>no such file</b>")]
    # One machine that asks again and again displaces nobody.
    for _ in range(report.MOST_FAILURES + 1):
        box.send(b"\0\1other\0octet\0", (SERVER, 69))
        network.advance(1)
    answers: list[Any] = []
    asked: Any = case.server.admin._answers["status"]({"do": "status"})
    asked.addCallback(answers.append)
    network.advance(1)
    told = [(each["name"], each["times"], each["verdict"]) for each in answers[0]["failures"]]
    assert told == [("other", report.MOST_FAILURES + 1, "missing"), ("<b>no such file</b>", 1, "missing")]


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("true", "metrics: page: there is none without an address: write listen: 127.0.0.1:9147"),
        ("perhaps", "metrics.page: perhaps is not true or false"),
    ],
)
def test_setting(tmp_path: Path, page: str, fault: str) -> None:
    """A page without an address is a fault, named with its line; so is what is no truth value."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "x.yaml").write_text(f"{START}metrics:\n  page: {page}\n{TFTP}")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.yaml", COLLECTED)
    (found,) = caught.value.faults
    assert re.sub(r"^.*x\.yaml:[34]: ", "", found) == fault


def test_mapOfAGroup() -> None:
    """A group of castd draws its map from what its members acknowledge."""
    with GroupStage() as stage:
        first = stage.join(1)
        (cast,) = stage.casts()
        for block in range(3):
            first.ack(block)
            (drawn,) = [each for each in cast.mapMembers(64, 50) if each is not None]
            assert drawn.cells == "#" * block + "+" + "." * (5 - block)
            assert (drawn.peer, drawn.lacking) == (("10.0.0.11", 2000), 6 - block)
        second = stage.join(2)
        first.ack(3)
        maps = [each.cells for each in cast.mapMembers(64, 50) if each is not None]
        assert maps == ["###+..", "...+.."]
        assert len([each for each in cast.mapMembers(64, 1) if each is not None]) == 1
        for block in (4, 5, 6):
            first.ack(block)
        second.ack(0, 1, 2, 3, 6)


def test_mapOfADeafMember() -> None:
    """One that goes on by unicast has what it acknowledges, and may have nothing of what the group is sent."""
    with GroupStage() as stage:
        first, second = stage.join(1), stage.join(2)
        for wait in (0.25, 0.5, 0.01):
            first.client.send(buildAck(0), first.tid)
            stage.network.advance(wait)
        assert len(stage.told("moved")) == 1
        (cast,) = stage.casts()
        second.ack(0, 1, 2)
        first.client.send(buildAck(1), first.tid)
        stage.network.advance(0.01)
        assert [each.cells for each in cast.mapMembers(64, 50) if each is not None] == ["#.....", "##+..."]
        for number in range(1, 7):
            first.client.send(buildAck(number), first.tid)
            second.ack(number)
            stage.network.advance(0.01)
