"""The pages of docs/: what they name is there."""

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import ClassVar

import click
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from zope.interface.interface import InterfaceClass

from castd import group_pool, plugins
from castd.cast import sweep
from castd.cast.policy import MIN_RTO
from castd.cli.main import main
from castd.client import schemes
from castd.config import config, yaml
from castd.config.plugin import Collected, ServiceMaker, TransportMaker, collect
from castd.dialects import _group, mtftp, mtftp_cast
from castd.doctor.examine import CHECKS
from castd.errors import ConfigError
from castd.files import file_upload, presence, threads
from castd.machines import table
from castd.net import port_stock
from castd.observe import batch, captures, history, report, sdnotify, web
from castd.observe.metrics import EVENT_METRICS, GAUGES, Counters, Gauges
from castd.observe.ratelimit import RateLimiter
from castd.outcomes import MEANING
from castd.packets import tftp as packets
from castd.plugins import castd_stock
from castd.proxydhcp import limits
from castd.server import blockcache, cast_protocol, listener, sessions, waiting_writes
from castd.service import rereads
from castd.service.service import kinds
from castd.testing import Network, memorySite
from tests.support.server import pageOf

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every link to a file of this repository leads to one."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    lost = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert lost == []


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of a page may name, as GitHub makes it of the heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    names = [re.sub(r"[^\w -]", "", each.lower()).strip().replace(" ", "-") for each in headings]
    # The second heading of a name gets -1 behind it, and so on.
    counts = [names[:index].count(name) for index, name in enumerate(names)]
    return {f"{name}-{count}" if count else name for name, count in zip(names, counts, strict=True)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors(page: Path) -> None:
    """Every link to a heading leads to one of that page."""
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text())
    pages = [(page.parent / target if target else page, name) for target, name in links if "://" not in target]
    assert [(each.name, name) for each, name in pages if name not in anchors(each)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables(page: Path) -> None:
    """Every table begins with its head: rows behind a blank line are shown as they are written."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?<![^\n]\n)^\|.*(?:\n\|.*)*", text, flags=re.MULTILINE)
    assert [each for each in tables if not re.match(r".*\n\|[-:| ]+\|(?:\n|$)", each)] == []


def conformance() -> Iterator[tuple[str, str]]:
    """Return (file, name) of every test of TFTP that has an id."""
    for file in sorted((ROOT / "tests" / "test_conformance").glob("test_tftp_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"test_TC\d\d_", node.name):
                yield file.name, node.name


def test_conformanceList() -> None:
    """The page of the tftp transport names every conformance test with its file, and none that is not there."""
    page = (ROOT / "docs" / "transports" / "tftp.md").read_text()
    named = set(re.findall(r"^\| TC\d\d \|.*\| `(\w+)` in `(\w+\.py)` \|$", page, re.MULTILINE))
    assert named == {(name, file) for file, name in conformance()}
    assert {name[5:9] for name, _ in named} == {f"TC{number:02}" for number in range(1, 65)}


@pytest.mark.parametrize(("kind", "count"), [("MC", 43), ("BC", 32), ("SL", 39), ("MT", 49), ("PX", 66)], ids=str)
def test_conformanceOfOthers(kind: str, count: int) -> None:
    """Each id of the conformance tables of the other transports is in the name of a test."""
    source = "".join(file.read_text() for file in sorted((ROOT / "tests" / "test_conformance").glob("*.py")))
    names = re.findall(r"def test_(\w+)\(", source)
    # Of PX21_22_23_everyAnswer all three numbers count.
    runs = [run for name in names for run in re.findall(rf"{kind}\d+(?:_(?:{kind})?\d+)*", name)]
    assert {int(number) for run in runs for number in re.findall(r"\d+", run)} == set(range(1, count + 1))


def test_decisionsAreListed() -> None:
    """The index leads to every decision."""
    index = (ROOT / "docs" / "index.md").read_text()
    decisions = sorted(page.name for page in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [name for name in decisions if f"decisions/{name})" not in index] == []


STOCK = [maker.name for maker in vars(castd_stock).values() if isinstance(maker, TransportMaker | ServiceMaker)]


@pytest.mark.parametrize("name", STOCK)
def test_aPageForEachTransport(name: str) -> None:
    """Each transport that comes with castd has a page of its own, which README and index link."""
    assert (ROOT / "docs" / "transports" / f"{name}.md").exists()
    assert f"docs/transports/{name}.md" in (ROOT / "README.md").read_text()
    assert f"transports/{name}.md" in (ROOT / "docs" / "index.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/transports/tftp.md", "docs/transports/multicast.md"])
def test_shortestTimeout(page: str) -> None:
    """The pages tell the shortest retransmission timeout that is in force."""
    assert f"{MIN_RTO * 1000:g} ms" in (ROOT / page).read_text()


#: What pages say of a number that stands in the code: page, sentence, and the number.  Numbers that are defaults of the
#: service file are in its reference, which is made from the code.
FIGURES = [
    ("docs/operations.md", "up to {:g} ms after its end, with those of", batch.DELAY * 1000),
    ("docs/operations.md", "the transfers that ended meanwhile, {} at the most", batch.MOST),
    ("docs/decisions/own-log.md", "or when {} are kept", batch.MOST),
    ("docs/operations.md", "castd tells {} different faults apart", RateLimiter.MAX_FAULTS),
    ("docs/operations.md", "up to {:,} a minute: for machines that were served", RateLimiter.MAX_LINES),
    ("docs/operations.md", "up to {:,} events wait", 2 * history.MOST_WAITING),
    ("docs/operations.md", "In a minute {} captures of one machine", captures.MOST_OF_MACHINE),
    ("docs/operations.md", "and {} of each kind", captures.MOST_OF_KIND),
    ("docs/operations.md", "castd reads no more than {} octets of what a receiver sends", cast_protocol.LONGEST_ANSWER),
    ("docs/plugins.md", "castd reads {} octets of a receiver's datagram at most", cast_protocol.LONGEST_ANSWER),
    ("docs/operations.md", "`servers`, which asks with `--probe`: {:g} s", max(check.seconds for check in CHECKS)),
    ("docs/supervision.md", "`limits.drain` and {:g} s", sdnotify.STOP_MARGIN),
    ("docs/supervision.md", "which is given up after {:g} s", rereads.REREAD_TIMEOUT),
    ("docs/supervision.md", "MTFTP waits {:g} s more", mtftp.REUSE_DELAY),
    ("docs/transports/mtftp.md", "sent in the {:g} s that follow", mtftp.REUSE_DELAY),
    ("docs/transports/mtftp.md", "castd remembers {} at most", mtftp_cast.MOST_REMEMBERED),
    ("docs/transports/mtftp.md", "When more than {} are remembered", mtftp_cast.CROWD),
    ("docs/transports/mtftp.md", "a file above {:,} octets", mtftp.LONGEST),
    ("docs/transports/multicast.md", "not use its address for {:g} s", group_pool.REUSE_DELAY),
    ("docs/transports/multicast.md", "| {:g} s, and on a busy server 5 s at most", _group.POLICY.keepAliveInterval),
    ("docs/transports/slam.md", "castd remembers up to {} addresses", sweep.MAX_MEMBERS),
    ("docs/transports/slam.md", "forgotten after {:g} s", sweep.LINGER),
    ("docs/transports/tftp.md", "up to {} octets here", packets.LARGEST_REQUEST),
    ("docs/transports/tftp.md", "has brought nothing for {:g} s", file_upload.SILENT_FOR),
    ("docs/transports/tftp.md", "castd waits {:g} s for the next answer", listener.COPY_WAIT),
    ("docs/security.md", "| {}, then the oldest is begun; ", waiting_writes.MOST_WRITES),
    ("docs/security.md", "oldest is begun; {}, and one more", waiting_writes.MOST_BEGINNING),
    ("docs/security.md", "and one more each {:g} ms", waiting_writes.BEGINNING_WAIT * 1000),
    ("docs/transports/proxydhcp.md", "same request within {:g} ms is answered once", limits.SAME_REQUEST * 1000),
    ("docs/transports/proxydhcp.md", "{} machines are remembered for that", limits.MOST_WAITING),
    ("docs/machines.md", "last {} machines are remembered", table.MOST_MACHINES),
    ("docs/metrics.md", "It answers within {:g} s", presence.PATIENCE),
    ("docs/metrics.md", "the first {} transfers, ", report.MOST_TRANSFERS),
    ("docs/security.md", "16; {}: beyond, the oldest", web.MOST_CONNECTIONS),
    ("docs/security.md", "Who has waited {:g} s for a file", sessions.LOOKUP_TIMEOUT),
    ("docs/security.md", "and ends after {:g} s |", cast_protocol.READ_TIMEOUT),
    ("docs/architecture.md", "Up to {} blocks are read by one `preadv`", blockcache.MOST_BLOCKS),
    ("docs/architecture.md", "{} datagrams at the most before others", cast_protocol.SLICE),
    ("docs/decisions/slow-disks.md", "Each directory has {} threads at the most", threads.MOST_THREADS),
    ("docs/decisions/transfer-ports.md", "Nothing in stock is older than {:g} s", port_stock.LIFETIME),
    ("docs/decisions/transfer-ports.md", "{} in all, an eighth", port_stock.MOST_STOCK),
]


@pytest.mark.parametrize(("page", "sentence", "number"), FIGURES, ids=str)
def test_figures(page: str, sentence: str, number: float) -> None:
    """The pages tell the numbers that are in force."""
    text = " ".join((ROOT / page).read_text().split())
    assert sentence.format(number) in text


def test_contracts() -> None:
    """The record on layers names each contract of import-linter."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    page = (ROOT / "docs" / "decisions" / "layers.md").read_text()
    assert column(page, "contract") == {each["id"] for each in linter["contracts"]}


def test_checks() -> None:
    """docs/operations.md names each check of castd doctor."""
    page = (ROOT / "docs" / "operations.md").read_text()
    assert column(page, "check") == {"file", *(check.name for check in CHECKS)}


def exposed(registry: CollectorRegistry) -> Iterator[Metric]:
    """Return every metric of castd's own, without those of the process."""
    return (metric for metric in registry.collect() if metric.name.startswith("castd_"))


def test_metricsPage() -> None:
    """docs/metrics.md names every metric that a scrape gives, with its type and its declared labels, and no other."""
    counters = Counters()
    for event in {event for metric in EVENT_METRICS for event in metric.events}:
        counters({"event": event, "transport": "tftp", "outcome": "done"})
    counters.register(
        Gauges(counters.labels, lambda: [Elsewhere()], memorySite(Network(), {}), lambda: [("proxydhcp", Rivals())])
    )
    pageOf(counters)
    labels = {metric.name: set(metric.labels) for metric in (*EVENT_METRICS, *GAUGES)}
    found = {}
    for metric in exposed(counters.registry):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found[name] = (metric.type, labels[metric.name])
        shown = {label for sample in metric.samples for label in sample.labels} - {"le"}
        assert shown <= labels[metric.name]
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(castd_\w+)` \| (\w+) \| ([\w, –]+) \| .+ \|$", page, re.MULTILINE)
    assert {name: (kind, set(labels.split(", ")) - {"–"}) for name, kind, labels in rows} == found
    assert set(re.findall(r"`(castd_\w+)`", page)) == set(found)


def test_extras() -> None:
    """docs/operations.md names each extra that C{all} stands for, with its library."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    names = everything.removeprefix("castd[").removesuffix("]").split(",")
    libraries = {name: re.split(r"[<>=]", extras[name][0])[0] for name in names}
    page = (ROOT / "docs" / "operations.md").read_text()
    (table,) = re.findall(r"^\| extra \| library \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w-]+) \|", table, re.MULTILINE))
    assert {name: library.lower() for name, library in rows.items()} == libraries


class Elsewhere:
    """A transport from elsewhere, with something under way that tells nothing of itself."""

    def casts(self) -> list[object]:
        return [object()]


class Rivals:
    """A service that has heard another server."""

    counts: ClassVar[dict[str, int]] = {"rivals": 1}


def column(page: str, title: str) -> set[str]:
    """Return the words in the first column of a table."""
    (table,) = re.findall(rf"^\| {title} \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    return {word for row in table.splitlines() for word in re.findall(r"`([\w-]+)`", row.split("|")[1])}


def emitted() -> Iterator[str]:
    """Return the name of every event that castd logs."""
    for file in (ROOT / "castd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "event" and isinstance(node.value, ast.Constant):
                yield node.value.value
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant):
                        yield str(value.value)


@pytest.mark.slow
def test_events() -> None:
    """docs/operations.md names every event and every outcome, and none that castd does not log."""
    page = (ROOT / "docs" / "operations.md").read_text()
    assert column(page, "event") == set(emitted())
    assert column(page, "outcome") == set(MEANING)


def found(name: str) -> bool:
    """Return whether the package has this name: a module, a class, a function, or an attribute of a class."""
    try:
        resolve_name(f"castd.{name}")
    except (ImportError, AttributeError):
        owner, _, last = name.rpartition(".")
        kind = resolve_name(f"castd.{owner}")
        return last in (kind.names(all=True) if isinstance(kind, InterfaceClass) else kind.__annotations__)
    return True


def test_newNames() -> None:
    """docs/names.md has tables of old and new names, and every new name exists in the package."""
    page = (ROOT / "docs" / "names.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (`[\w.`, ]+`) \|$", page, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| `", page, re.MULTILINE)) > 250
    new = {name for _, names in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert {name for name in new if not found(name)} == set()


def typed(page: Path) -> Iterator[str]:
    """Return each command of castd that a page says to type: in a block of shell, or between backticks."""
    text = page.read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ |sudo )?(?:\S*/)?castd ([a-z].*)", line)
            if found is not None:
                yield re.split(r" (?:#|\||>|&)", found[1])[0]
    yield from re.findall(r"`castd ([a-z][^`\n…]*)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page: Path) -> None:
    """Every command on a page is one that castd takes: its name, its options, as many arguments."""
    refused = []
    for line in typed(page):
        name, *words = shlex.split(re.sub(r"\[.*\]", "", line), comments=True)
        command = main.get_command(click.Context(main), name)
        if command is None:
            refused.append(line)
            continue
        context = click.Context(command, info_name=name)
        try:
            _, left, _ = command.make_parser(context).parse_args(list(words))
        except click.BadOptionUsage as error:
            # An option may be named without its value: `castd explain --options`.
            refused += [] if words[-1:] == [error.option_name] else [f"{line}: {error.message}"]
        except click.UsageError as error:
            refused.append(f"{line}: {error.message}")
        else:
            refused += [line] if left else []
    assert refused == []


#: What a service file needs besides what an example shows.
NEEDED = {
    "castd": "castd: 1",
    "content": "content: [{directory: {path: /srv/boot}}]",
    "access": "access: [{allow: any}]",
    "transports": "transports: {tftp: {}}",
}


def serviceFiles(page: Path) -> Iterator[tuple[int, str]]:
    """
    Return each example of a service file on a page, or of sections of one, completed: the line before it, and the file.

    Other blocks of YAML are for other programs, or show a part within a section.
    """
    text = page.read_text()
    for block in re.finditer(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        keys = set(re.findall(r"^([a-z]+):", block[1], re.MULTILINE))
        if keys and keys <= {*config._SECTIONS, "castd"}:
            needed = [line for key, line in NEEDED.items() if key not in keys]
            yield text.count("\n", 0, block.start()) + 1, "\n".join([*needed, block[1]])


@pytest.fixture
def withExamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    """The plugins that are found when all folders of examples are on the path; they are forgotten afterwards."""
    monkeypatch.setattr(schemes, "_SCHEMES", dict(schemes._SCHEMES))
    folders = [str(each) for each in (ROOT / "examples").glob("*/castd/plugins")]
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, *folders])
    before = set(sys.modules)
    yield collect()
    for name in set(sys.modules) - before:
        if name.startswith("castd.plugins."):
            del sys.modules[name]


def test_serviceFiles(withExamples: Collected) -> None:
    """Every example of a service file is one that castd takes, on whatever machine that has the files it names."""
    refused, read = [], 0
    for page in PAGES:
        for line, text in serviceFiles(page):
            read += 1
            try:
                config.build(
                    yaml.parse(text.encode(), f"{page.name}:{line}"), Path("/etc/castd.yaml"), kinds(withExamples)
                )
            except ConfigError as error:
                refused += error.faults
    assert refused == []
    assert read > 20


def promises() -> list[list[tuple[str, str]]]:
    """Return the tables of promises on the page on security: of each row the promise, and what stands for it."""
    page = (ROOT / "docs" / "security.md").read_text()
    tables = re.findall(r"^\| promise \| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [re.findall(r"^\| (.+) \| ([^|]+) \|$", table, re.MULTILINE) for table in tables]


def placeOf(name: str) -> Path:
    """Return the file of tests that a page names, from the root or from the folder of tests."""
    return ROOT / "tests" / name.removeprefix("tests/")


def defined(file: str) -> set[str]:
    """Return the names of the tests in a file."""
    nodes = ast.walk(ast.parse(placeOf(file).read_text()))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in functions if name.startswith("test_")}


@pytest.mark.slow
@pytest.mark.parametrize("rows", promises(), ids=lambda rows: rows[0][0][:40])
def test_promises(rows: list[tuple[str, str]]) -> None:
    """The page on security names for each promise a test that is there, by its name and file or by its file alone."""
    known = {name for _, tests in rows for name in re.findall(r"`([\w/]+\.py)`", tests)}
    assert [name for name in known if not placeOf(name).exists()] == []
    for promise, tests in rows:
        names, files = re.findall(r"`(test_\w+)`", tests), re.findall(r"`([\w/]+\.py)`", tests)
        # A name without a file is in one of the files that other rows name.
        there = set().union(*map(defined, files or known))
        assert set(names) <= there, promise
        assert there, promise


def test_thePromisesAreFound() -> None:
    """Both tables are, with all of their rows: the law in the large, and what a slow disk costs."""
    page = (ROOT / "docs" / "security.md").read_text()
    law, disks = promises()
    assert len(law) >= 30
    assert len(disks) >= 12
    assert page.count("| promise | test |") == 2
