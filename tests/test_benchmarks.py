"""What benchmarks/ computes from its samples: ratios, marks, what others took, and the page written from kept runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest

from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.service import service
from castd.testing import Network
from tests.support.needs import needNative

ROOT = Path(__file__).parent.parent
HERE = ROOT / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of benchmarks/, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(HERE))

    class Modules:
        def __getattr__(self, name: str) -> ModuleType:
            return importlib.import_module(name)

    return Modules()


def test_theWayOfOneRequest(modules: Any, tmp_path: Path) -> None:
    """From a request to its OACK one has to read no more files than docs/architecture.md says."""
    callpath, network = modules.callpath, Network()
    callpath.start(tmp_path, network)
    path = callpath.untilOack(network, callpath.RRQ)
    found = len(path.files()), len(path.moves())
    if "files/threads.py" in path.files():
        # The file system, or the kernel, opens no file from memory.
        assert found[0] <= 22
        assert found[1] <= 47
    else:
        assert found == (21, 33)
    assert "21 files of castd and 33 moves" in (ROOT / "docs" / "architecture.md").read_text()


def sample(**more: Any) -> dict[str, Any]:
    """What one run counts: 100 MiB in a second, in 1,000 blocks."""
    counted = {
        "mode": "poll",
        "round": 1,
        "seconds": 1.0,
        "octets": 100 * 2**20,
        "blocks": 1000,
        "ended": 10,
        "failures": 0,
        "server_cpu": 0.5,
        "client_cpu": 0.25,
        "memory": 40.0,
        "answer_p50": 0.001,
        "answer_p99": 0.002,
        "request_repeats": 0,
        "ack_repeats": 0,
        "others": 0.0,
        "stolen": 0.0,
        "repeated": 0,
        "disturbed": False,
        "window": 1,
    }
    return counted | more


def runs(*rates: float, **more: Any) -> list[dict[str, Any]]:
    """One round that warms up, and one with each of these MiB/s."""
    timed = [sample(round=number + 1, octets=int(rate * 2**20), **more) for number, rate in enumerate(rates)]
    return [sample(mode="warm", round=0), *timed]


def test_ratiosAreOfTheSameRound(modules: Any) -> None:
    """A ratio is formed within a round, and a round that only one of both has is left out."""
    samples = {"castd": runs(100, 50, 90), "dnsmasq": runs(100, 100)}
    assert modules.figures.ratio(samples, "castd", "dnsmasq") == (0.5, 0.75, 1.0)
    assert modules.figures.ratio(samples, "castd", "dnsmasq", "sleep") is None


def test_marksKnowBothKinds(modules: Any) -> None:
    """A mark is judged by its own bound for castd in Python and for the native loop, and says by how much."""
    mark = modules.marks.Mark("throughput", 0.8, 1.0, "dnsmasq")
    pure = modules.marks.judge(mark, lambda measure, against: 0.9)
    native = modules.marks.judge(mark, lambda measure, against: 0.9, native=True)
    assert pure.met
    assert not native.met
    assert pure.show() == "0.90, met by 12%"
    assert native.show() == "0.90, **missed** by 10%"
    assert modules.marks.judge(mark, lambda measure, against: None).show() == "not measured"


@pytest.mark.parametrize(
    ("measure", "bound", "value", "met"),
    [
        ("cpu", 7.0, 6.9, True),
        ("cpu", 7.0, 7.1, False),
        ("repeats", 0, 0.0, True),
        ("repeats", 0, 1.0, False),
        ("packets", 5.0, 5.1, True),
        ("packets", 5.0, 4.9, False),
        ("wire", 1.05, 1.06, False),
    ],
)
def test_moreOrLessIsBetter(modules: Any, measure: str, bound: float, value: float, met: bool) -> None:
    """Throughput has to be at least its bound, a cost at most."""
    assert modules.marks.judge(modules.marks.Mark(measure, bound), lambda *_: value).met is met


def test_theBestOfAKind(modules: Any) -> None:
    """best-c is the fastest server in C, the ceiling is none; every is the peer that comes nearest."""
    figures, workload = modules.figures, modules.figures.BY_NAME["lockstep-1"]
    samples = {"castd": runs(100), "ceiling": runs(400), "dnsmasq": runs(50), "atftpd": runs(80), "tftp": runs(25)}
    measure = figures.measured(workload, samples, "castd")
    assert measure("throughput", "best-c") == 1.25
    assert measure("throughput", "best-python") == 4.0
    assert measure("throughput", "every") == 1.25
    assert measure("throughput", "tftpd-hpa") is None


def test_whatCostsAreDividedBy(modules: Any) -> None:
    """CPU time is for a block that arrived, for a file, or for a block that was sent to all of a group."""
    figures = modules.figures
    assert figures.cost(figures.BY_NAME["lockstep-64"], runs(1)) == pytest.approx(500.0)
    assert figures.cost(figures.BY_NAME["storm"], runs(1)) == pytest.approx(50_000.0)
    assert figures.cost(figures.BY_NAME["storm"], runs(1, failures=10)) is None
    group = figures.BY_NAME["groups-16"]
    assert figures.cost(group, runs(1)) == pytest.approx(500.0 * group.transfers / group.files)


def test_marksOfEveryWorkload(modules: Any) -> None:
    """Each mark of each workload can be judged from samples, for castd with its native loop as well."""
    names = ["castd", modules.servers.NATIVE, "dnsmasq", "atftpd", "tftp", modules.servers.BESIDE]
    results = {workload.name: {name: runs(100, 100) for name in names} for workload in modules.workloads.WORKLOADS}
    found = modules.figures.verdicts(results)
    assert len(found) == sum(len(workload.marks) for workload in modules.workloads.WORKLOADS)
    assert all(pure.value is not None and native.value is not None for _, _, pure, native in found)


def test_noColumnWithoutANativeLoop(modules: Any) -> None:
    """The table of marks has a column for the native loop only where the run had one."""
    without = modules.figures.summary({"storm": {"castd": runs(90), "dnsmasq": runs(100)}}, {"when": "x"})
    both = {"castd": runs(90), modules.servers.NATIVE: runs(95), "dnsmasq": runs(100)}
    head = "| work | mark | castd |"
    assert head + "\n" in modules.page.markdown([facts(without)])
    assert head + " castd-native |\n" in modules.page.markdown([facts(modules.figures.summary({"storm": both}, {}))])


def facts(run: Any, processor: str = "A", when: str = "2026-01-01") -> Any:
    """The run, as if it were of this machine."""
    run.machine = {"when": when, "processor": f"{processor}, 2 CPUs"}
    return run


def test_disturbedRunsAreTold(modules: Any) -> None:
    """A row says how many of its timed runs others disturbed; without any there is no such column."""
    calm = modules.figures.summary({"storm": {"castd": runs(90, 90)}}, {})
    busy = modules.figures.summary({"storm": {"castd": [*runs(90), sample(round=2, disturbed=True)]}}, {})
    assert "disturbed" not in modules.page.markdown([facts(calm)])
    assert "| 1 of 2 |" in modules.page.markdown([facts(busy)])


def test_machinesSideBySide(modules: Any) -> None:
    """The ratios of an older run on another machine stand beside the new ones, of the same work and server."""
    new = modules.figures.summary({"storm": {"castd": runs(90), "dnsmasq": runs(100)}}, {})
    old = modules.figures.summary({"storm": {"castd": runs(30, mode="sleep"), "dnsmasq": runs(100, mode="sleep")}}, {})
    page = modules.page.markdown([facts(new, "New"), facts(old, "Old", "2025-01-01")])
    (row,) = [line for line in page.splitlines() if "| dnsmasq |" in line]
    assert "**0.90** (0.90 to 0.90)" in row
    assert "0.30 (0.30 to 0.30)" in row
    assert "client sleeps: Old, 2025-01-01" in page


def test_aServerWithoutWindows(modules: Any) -> None:
    """A server that only warmed up grants no window, and says so in every column's place."""
    run = modules.figures.summary({"window16-1": {"castd": runs(9), "dnsmasq": [sample(mode="warm", round=0)]}}, {})
    lines = [line for line in modules.page.markdown([facts(run)]).splitlines() if line.startswith("| 1 client")]
    assert any("grants no window of 16" in line for line in lines)
    assert len({line.count("|") for line in lines if "| castd |" in line or "| dnsmasq |" in line}) <= 3


def test_whatIsKeptIsShown(modules: Any) -> None:
    """A run survives being kept as JSON, and docs/benchmarks.md is what the kept runs say."""
    kept = modules.page.load()
    for run in kept:
        assert modules.figures.Run.of(json.loads(json.dumps(run.plain()))) == run
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page.partition(modules.page.GROWTH)[0].rstrip() == modules.page.markdown(kept).rstrip()
    assert (ROOT / "docs" / "benchmarks.svg").read_text() == modules.page.chart(kept[0])


def test_sectionsOfOthersStay(modules: Any, tmp_path: Path) -> None:
    """Writing the page leaves what growth.py has written on it, however often it is done."""
    (tmp_path / "benchmarks.md").write_text(f"old\n\n{modules.page.GROWTH}\n\nkept\n")
    modules.page.write(tmp_path)
    once = (tmp_path / "benchmarks.md").read_text()
    modules.page.write(tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == once
    assert once.endswith(f"\n\n{modules.page.GROWTH}\n\nkept\n")


STAT = """\
cpu  999 0 999 999 0 0 0 999 0 0
cpu0 100 10 50 700 5 1 2 30 0 0
cpu1 200 20 60 600 5 2 3 40 0 0
cpu10 900 900 900 900 900 900 900 900 0 0
"""


def test_cpuTimesOfTheKernel(modules: Any) -> None:
    """Busy is whatever is neither idle nor stolen, on the CPUs that are asked for."""
    cpus = modules.neighbours.Cpus.parse(STAT, (0, 1), 0.01)
    assert (cpus.busy, cpus.stolen) == (pytest.approx(4.48), pytest.approx(0.7))


@pytest.mark.parametrize(
    ("own", "stolen", "serious"), [(2.0, 0.0, False), (1.85, 0.0, True), (2.1, 0.0, False), (2.0, 0.2, True)]
)
def test_disturbed(modules: Any, own: float, stolen: float, serious: bool) -> None:
    """A run is disturbed by other processes and by other virtual machines, not by its own."""
    cpus = modules.neighbours.Cpus
    found = modules.neighbours.Disturbance.between(cpus(10.0, 1.0), cpus(12.0, 1.0 + stolen), own, 1.0)
    assert found.serious is serious


def test_aShortRunIsNotJudgedByATick(modules: Any) -> None:
    """The kernel counts in hundredths: two of them do not make a tenth of a second disturbed."""
    cpus = modules.neighbours.Cpus
    assert not modules.neighbours.Disturbance.between(cpus(1.0, 0.0), cpus(1.2, 0.0), 0.17, 0.1).serious


@pytest.mark.parametrize(
    ("arguments", "flags", "words"),
    [
        (
            "'--enable-optimizations' '--with-lto'",
            "-g -O2",
            "optimised by a profile (--enable-optimizations), --with-lto, -O2",
        ),
        ("'--prefix=/x'", "-O2 -g -O3 -Wall", "not optimised by a profile, without --with-lto, -O3"),
        ("", "", "not optimised by a profile, without --with-lto, no -O"),
    ],
)
def test_howPythonWasBuilt(modules: Any, arguments: str, flags: str, words: str) -> None:
    """The facts say whether Python was built with a profile, with LTO, and at which level."""
    assert modules.figures.build(arguments, flags) == words


def test_debiansPythonSaysNothingOfItsProfile(modules: Any) -> None:
    """Debian's configure does not name the profile, so its package does."""
    told = modules.figures.build("'--prefix=/usr'", "-O2", "python3.11-minimal 3.11.2-6")
    assert told == "Debian's python3.11-minimal 3.11.2-6, which Debian optimises by a profile and as it is linked"


def test_whoseProgramThisIs(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is what dpkg-query says of the file; a file of no package, or a system without dpkg, has none."""
    fake = tmp_path / "dpkg-query"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        '"-S /usr/bin/python3.11") echo "python3.11-minimal: /usr/bin/python3.11";;\n'
        '"-W "*) printf "python3.11-minimal 3.11.2-6";;\n'
        "*) exit 1;;\n"
        "esac\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert modules.figures.debianPackage(Path("/usr/bin/python3.11")) == "python3.11-minimal 3.11.2-6"
    assert modules.figures.debianPackage(Path("/opt/python")) == ""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert modules.figures.debianPackage(Path("/usr/bin/python3.11")) == ""


def test_anotherCheckoutIsRunByItsOwnPython(modules: Any, tmp_path: Path) -> None:
    """The castd of another checkout is run by the Python of its C{.venv}, if it has one; its version names it then."""
    program = tmp_path / ".venv" / "bin" / "python"
    castd = modules.servers.castd("castd-beside", 7073, str(tmp_path))
    assert castd.command(tmp_path, tmp_path, False)[0] == sys.executable
    program.parent.mkdir(parents=True)
    program.touch()
    castd = modules.servers.castd("castd-beside", 7073, str(tmp_path))
    assert castd.command(tmp_path, tmp_path, False)[0] == str(program)
    assert castd.asks[0] == str(program)


def test_roundsTakeTurns(modules: Any) -> None:
    """One round warms up; those with a client that sleeps are spread among those that poll."""
    assert modules.bench.order(3, 1) == ["warm", "poll", "sleep", "poll", "poll"]
    assert modules.bench.order(1, 2) == ["warm", "poll", "sleep", "sleep"]


def test_freshNamesAreOfOneRound(modules: Any) -> None:
    """Only work with fresh names asks for as many files as it has transfers: each name once."""
    for workload in modules.workloads.WORKLOADS:
        assert not workload.fresh or workload.files == workload.transfers


def test_beingWatchedCosts(modules: Any) -> None:
    """What a watcher costs is formed within a round, beside the castd that tells nothing."""
    dear = [run | {"server_cpu": 0.75} for run in runs(1, 1, 1)]
    slow = [run | {"server_cpu": run["server_cpu"] * 3} for run in runs(1, 1, 1)]
    workload, names = modules.figures.BY_NAME["storm"], modules.watching.WATCHERS
    found = modules.watching.costs(workload, {"nothing": runs(1, 1), "recorder": dear, "page, nobody looks": slow})
    assert found["nothing"][1] == (1.0, 1.0, 1.0)
    assert found["recorder"] == ((75_000.0,) * 3, (1.5, 1.5, 1.5))
    assert found["page, nobody looks"][1] == (3.0, 3.0, 3.0)
    table = modules.watching.table({"storm": {name: runs(1) for name in names}})
    assert len(table) == 2 + len(names)


def test_everyWatcherIsAServiceFile(modules: Any, tmp_path: Path) -> None:
    """The service file of each castd that is measured can be read, and has on what its name says."""
    kinds = service.kinds(collect())
    read = {}
    for server in modules.watching.servers():
        server.command(tmp_path, tmp_path, False)
        file = tmp_path / f"{server.name}.yaml"
        read[server.name] = build(yaml.parse(file.read_bytes(), str(file)), file, kinds)
    assert {name for name, config in read.items() if config.recorder.directory} == {"recorder", "all of these"}
    assert {name for name, config in read.items() if config.history.path} == {"history in a file", "all of these"}
    assert sum(config.metrics.listen is not None for config in read.values()) == 3


@pytest.mark.parametrize("groups", [False, True])
def test_theServiceFileOfABenchmark(modules: Any, tmp_path: Path, groups: bool) -> None:
    """All transfers come from one address, so its limits are raised; a group is served only where one is wanted."""
    server = modules.servers.castd("castd", 7069)
    server.command(tmp_path, tmp_path, groups)
    file = tmp_path / "castd.yaml"
    config = build(yaml.parse(file.read_bytes(), str(file)), file, service.kinds(collect()))
    assert config.limits.perPeer > 1000
    assert ["multicast" in file.read_text(), "CASTD_NATIVE" in server.environment] == [groups, True]


def test_layersHaveBounds(modules: Any) -> None:
    """Each layer has a bound, and each bound a layer."""
    assert set(modules.layerbounds.BOUNDS) == {*modules.layers.CALLED, *modules.layers.TIMED}


def test_aDearLayerIsFound(modules: Any) -> None:
    """A layer is compared with the loop that was measured beside it, whatever the speed of the machine."""
    bound = modules.layerbounds.BOUNDS["look-up"]
    for loop in (1e-4, 1e-3):
        (cheap,) = modules.layerbounds.judged({"reference": loop, "look-up": bound * loop * 0.99})
        (dear,) = modules.layerbounds.judged({"reference": loop, "look-up": bound * loop * 1.01})
        assert cheap.kept
        assert not dear.kept
    assert "**dearer**" in modules.layerbounds.table([dear])


LAYERS = (
    "parse a request",
    "negotiate",
    "admission",
    "look-up",
    "lay out a chunk",
    "lay out a chunk natively",
    "an event as text",
    "an event as JSON",
)


@pytest.mark.parametrize("name", LAYERS)
def test_aLayerCanBeCalled(modules: Any, name: str) -> None:
    """What is measured still works: each layer gives something, again and again."""
    if name.endswith("natively"):
        needNative()
    call = modules.layers.CALLED[name]()
    assert [call() is None for _ in range(3)] == [name in ("admission", "look-up")] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a fast path step", "a group step"])
def test_aStepCanBeTimed(modules: Any, name: str) -> None:
    """What is measured still works: so many steps are taken, and took time."""
    assert modules.layers.TIMED[name](100) > 0


@pytest.mark.parametrize(
    ("page", "program"),
    [
        ("security.md", "attacks.py"),
        ("operations.md", "watching.py"),
        ("profile.md", "stages.py storm"),
        ("profile.md", "stages.py lane"),
        ("profile.md", "stages.py group"),
    ],
    ids=["attacks", "watching", "storm", "lane", "group"],
)
def test_tablesHaveTheirPlace(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, program: str
) -> None:
    """A program that writes its table into a page replaces what stood between its marks, and nothing else."""
    before = (modules.facts.DOCS / page).read_text()
    (tmp_path / page).write_text(before)
    monkeypatch.setattr(modules.facts, "DOCS", tmp_path)
    for lines in (["| old |"], ["| new |"]):
        modules.facts.fillIn(page, program, lines)
    head, tail = before.partition("<!-- benchmarks/")[0], before.rpartition("end -->")[2]
    written = (tmp_path / page).read_text()
    assert written.startswith(head)
    assert written.endswith(tail)
    assert "| new |" in written
    assert "| old |" not in written


def test_pagesWithoutAPlace(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that has lost its marks is not written to."""
    (tmp_path / "page.md").write_text("text\n")
    monkeypatch.setattr(modules.facts, "DOCS", tmp_path)
    with pytest.raises(ValueError, match="no place for what"):
        modules.facts.fillIn("page.md", "x.py", [])
    assert (tmp_path / "page.md").read_text() == "text\n"


def test_stagesNameWhatIsThere(modules: Any) -> None:
    """Each module and function that has a stage is one of castd's, so a name that has changed is not looked for."""
    stages = modules.stages
    for module in stages.MODULES:
        assert (ROOT / "castd" / f"{module}.py").exists(), module
    for function in stages.FUNCTIONS:
        module, _, name = function.partition(":")
        assert resolve_name(f"castd.{module.replace('/', '.')}:{name}"), function
        assert module in stages.MODULES
    named = {*stages.MODULES.values(), *stages.FUNCTIONS.values(), *stages.COMPILED.values(), *stages.LEAST.values()}
    assert named - {stages.CALLER} <= set(stages.STAGES)


READABLE, STEPPED = "castd/net/unicast_ports.py:UnicastPort.readable", "castd/server/fastpath.py:FastPath.x"


@pytest.mark.parametrize(
    ("where", "functions", "stage"),
    [
        ("kernel send", [STEPPED, READABLE], "SENT"),
        ("kernel recv", [READABLE], "HEARD"),
        ("kernel __close", ["castd/net/unicast_ports.py:SocketPair.close", READABLE], "CLOSED"),
        ("user malloc", ["socket.py:x", STEPPED, READABLE], "STEP"),
        ("user ?", ["castd/errors.py:x", "castd/net/ports.py:UnconnectedPort.burstWriter.<locals>.<lambda>"], "SENT"),
        ("user ?", ["castd/server/nowhere.py:x", READABLE], "UNNAMED"),
        ("user ?", ["socket.py:x"], "UNNAMED"),
        ("native-kernel recvfrom", [STEPPED], "HEARD"),
        ("native-user ?", ["castd/server/random.py:x"], "STEP"),
        ("native-user memcpy", [], "LAID"),
        ("thread-kernel read", [], "THREADS"),
        ("garbage collector", [STEPPED], "COLLECTED"),
    ],
)
def test_theStageOfASample(modules: Any, where: str, functions: list[str], stage: str) -> None:
    """A sample belongs to the stage of its innermost function that has one, or of its call; a new module has none."""
    assert modules.stages.stageOf(where, functions) == getattr(modules.stages, stage)


def test_whatLiesAboveTheCeiling(modules: Any) -> None:
    """Stages get their part of what a unit costs without the sampler, and the last row is castd less the ceiling."""
    stages = modules.stages
    castd, least = stages.Costs(plain=[10.0, 20.0, 30.0]), stages.Costs(plain=[4.0])
    castd.add(stages.SENT, "kernel send", [], 30)
    castd.add(stages.STEP, "user ?", [], 70)
    least.add(stages.SENT, "kernel send", [], 5)
    lines = stages.table({"castd": castd, "ceiling": least}, "block")
    assert f"| {stages.SENT} | 6.00 | 6.00 | 4.00 |" in lines
    assert f"| {stages.STEP} | 14.00 |  |  |" in lines
    assert f"| {stages.UNNAMED} |  |  |  |" in lines
    assert lines[-2:] == ["| **all** | 20.00 | 6.00 | 4.00 |", "| **above the ceiling** | 16.00 | 2.00 |  |"]
    assert castd.error(stages.SENT) == pytest.approx(20 * (0.3 * 0.7 / 100) ** 0.5)
