"""Computes the figures of a run from its samples: plain data, which is kept, and which the page is made of."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from facts import processor
from marks import Mark, Verdict, judge
from servers import CASTDS, NATIVE, SERVERS
from workloads import WORKLOADS, Workload

Sample = dict[str, Any]
"""As in C{bench}."""

Results = dict[str, dict[str, list[Sample]]]
"""Workload, then server, then its samples: the one that warms up first."""

Triple = tuple[float, float, float]
"""Least, median, greatest."""

BY_NAME: dict[str, Workload] = {workload.name: workload for workload in WORKLOADS}
KINDS = {server.name: server.kind for server in SERVERS} | dict.fromkeys(CASTDS, "castd")


@dataclass
class Row:
    """
    The figures of one server in one workload.

    @ivar rate: MiB/s of files, with a client that polls.
    @ivar versus: throughput of the first server divided by this one's; C{sleeping}: with a client that sleeps;
        C{native}: that of castd with its native loop divided by this one's.
    @ivar cpu: microseconds of the server's CPU for one C{unit}.
    @ivar server, client: parts of the time in which they were busy, the client's with one that sleeps.
    @ivar memory: MiB; C{answer}: milliseconds to the first answer, median and 99th percentile.
    @ivar asked: requests and ACKs that were sent again.
    @ivar disturbed: timed runs that others disturbed, even the best of its repetitions; C{runs}: all of them.
    @ivar refused: why the server took no part; then nothing else is there.
    """

    work: str
    server: str
    unit: str = ""
    rate: Triple | None = None
    versus: Triple | None = None
    sleeping: Triple | None = None
    native: Triple | None = None
    cpu: float | None = None
    server_busy: float | None = None
    client_busy: float | None = None
    memory: float | None = None
    answer: tuple[float, float] | None = None
    asked: tuple[int, int] | None = None
    failed: int | None = None
    disturbed: int = 0
    runs: int = 0
    refused: str = ""


@dataclass
class Run:
    """
    One run, as it is kept and shown.

    @ivar machine: facts in words.
    @ivar marks: (work, mark, what castd did, what castd with its native loop did), in words.
    @ivar halls: rows of the table of mixed halls; C{wire}: of groups on the wire; the first is the head of each.
    @ivar notes: lines that somebody wrote about it afterwards.
    """

    machine: dict[str, str]
    rows: list[Row]
    marks: list[list[str]] = field(default_factory=list)
    halls: list[list[str]] = field(default_factory=list)
    wire: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """@return: what JSON can say."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Run:
        """@return: the run that L{plain} told of."""
        rows = [Row(**{key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}) for row in plain["rows"]]
        return cls(**{**plain, "rows": rows})


def debianPackage(program: Path) -> str:
    """@return: package and version that a program is of, as Debian's C{dpkg} tells them; C{""}: of none."""
    if shutil.which("dpkg-query") is None:
        return ""
    found = subprocess.run(["dpkg-query", "-S", program], capture_output=True, text=True, check=False)
    package = found.stdout.partition(":")[0]
    if found.returncode or not package:
        return ""
    words = ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def build(arguments: str, flags: str, package: str = "") -> str:
    """
    @param arguments: those that Python's configure was called with; C{flags}: those of its compiler.
    @param package: see L{debianPackage}. Debian optimises its builds by a profile and as they are linked, on amd64 and
        arm64, but C{sysconfig} does not tell it: its F{debian/rules} runs configure without those words.
    @return: how this Python was built: that is worth a tenth, and up to a third on a processor with small caches.
    """
    if package:
        return f"Debian's {package}, which Debian optimises by a profile and as it is linked"
    profiled = "--enable-optimizations" in arguments
    linked = "--with-lto" in arguments
    level = next((flag for flag in reversed(flags.split()) if flag.startswith("-O")), "no -O")
    words = "optimised by a profile (--enable-optimizations)" if profiled else "not optimised by a profile"
    return f"{words}, {'' if linked else 'without '}--with-lto, {level}"


def neighbours(results: Results) -> str:
    """@return: what others took of our CPUs in the timed rounds, in words."""
    timed = [run for samples in results.values() for runs in samples.values() for run in runs if run["mode"] != "warm"]
    if not timed:
        return "nothing was timed"
    others = [run["others"] / run["seconds"] for run in timed]
    stolen = [run["stolen"] / run["seconds"] for run in timed]
    repeated, disturbed = sum(run["repeated"] > 0 for run in timed), sum(run["disturbed"] for run in timed)
    return (
        f"other processes {median(others):.1%} of a CPU (median run; greatest {max(others):.1%}), other virtual "
        f"machines {median(stolen):.1%} ({max(stolen):.1%}); {repeated} of {len(timed)} runs were repeated for that, "
        f"{disturbed} stayed disturbed"
    )


def here(versions: dict[str, str], results: Results) -> dict[str, str]:
    """@return: the facts of this machine and of this run."""
    config = sysconfig.get_config_var
    polls = [sum(run["mode"] == "poll" for run in runs) for samples in results.values() for runs in samples.values()]
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{processor()}, {os.cpu_count()} CPUs",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {platform.python_compiler()}, "
        + build(config("CONFIG_ARGS") or "", config("PY_CFLAGS") or "", debianPackage(Path(sys.executable).resolve())),
        "servers": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "timed rounds": f"{min(filter(None, polls), default=0)} to {max(polls, default=0)} with a client that polls",
        "neighbours": neighbours(results),
    }


def triple(values: Iterable[float]) -> Triple:
    """@param values: at least one."""
    found = list(values)
    return min(found), median(found), max(found)


def rate(sample: Sample) -> float:
    """@return: MiB of files a second."""
    return float(sample["octets"] / sample["seconds"] / 2**20)


def rounds(runs: list[Sample], mode: str) -> dict[int, Sample]:
    """@return: the samples of one mode, by round."""
    return {run["round"]: run for run in runs if run["mode"] == mode}


def ratio(samples: dict[str, list[Sample]], first: str, peer: str, mode: str = "poll") -> Triple | None:
    """Compare two servers round by round, so that a disturbance of the machine in one round affects both.

    @return: how many times as fast as C{peer} C{first} was; L{None} if they have no round in common.
    """
    mine, its = (rounds(samples.get(name, []), mode) for name in (first, peer))
    pairs = [(mine[number], its[number]) for number in mine if number in its]
    if not pairs:
        return None
    return triple(rate(a) / rate(b) if b["octets"] else math.inf for a, b in pairs)


def units(workload: Workload, sample: Sample) -> float:
    """@return: by what the CPU time of a sample is divided."""
    return workload.units(sample["blocks"], sample["ended"] - sample["failures"])


def cost(workload: Workload, runs: list[Sample]) -> float | None:
    """@return: microseconds of the server's CPU for one unit, in the median round; L{None} if nothing arrived."""
    timed = rounds(runs, "poll").values()
    costs = [run["server_cpu"] / units(workload, run) * 1e6 for run in timed if units(workload, run)]
    return median(costs) if costs else None


def fastest(samples: dict[str, list[Sample]], kind: str) -> str | None:
    """@return: the server of this kind with the greatest median throughput."""
    rates = {n: [rate(s) for s in rounds(runs, "poll").values()] for n, runs in samples.items() if KINDS[n] == kind}
    rates = {name: found for name, found in rates.items() if found}
    return max(rates, key=lambda name: median(rates[name]), default=None)


def measured(workload: Workload, samples: dict[str, list[Sample]], first: str) -> Callable[[str, str], float | None]:
    """@return: what C{first} shows of a measure against a peer, as L{judge} asks it."""

    def middle(peer: str | None) -> float | None:
        found = ratio(samples, first, peer) if peer else None
        return found[1] if found else None

    def throughput(against: str) -> float | None:
        if against.startswith("best-"):
            return middle(fastest(samples, against.removeprefix("best-")))
        if against != "every":
            return middle(against)
        peers = [middle(name) for name in samples if KINDS[name] in ("c", "python")]
        return min((each for each in peers if each is not None), default=None)

    def expense(against: str) -> float | None:
        mine, its = (cost(workload, samples.get(name, [])) for name in (first, against))
        return mine / its if mine and its else None

    def measure(what: str, against: str) -> float | None:
        runs = samples.get(first, [])
        timed = [run for run in runs if run["mode"] != "warm"]
        if not timed:
            return None
        if what == "memory":
            return max(float(run["memory"]) for run in runs)
        if what in ("repeats", "failures"):
            return float(sum(run["request_repeats" if what == "repeats" else what] for run in timed))
        return {"throughput": throughput, "cost": expense, "cpu": lambda _: cost(workload, runs)}[what](against)

    return measure


def verdicts(results: Results) -> list[tuple[str, Mark, Verdict, Verdict | None]]:
    """@return: for each mark of each workload: its title, the mark, what castd did, and with its native loop."""
    found = []
    for name, samples in results.items():
        workload = BY_NAME[name]
        for mark in workload.marks:
            if mark.against == "castd-beside" and mark.against not in samples:
                continue
            pure = judge(mark, measured(workload, samples, "castd"))
            native = judge(mark, measured(workload, samples, NATIVE), True) if NATIVE in samples else None
            found.append((workload.title, mark, pure, native))
    return found


def told(verdict: tuple[str, Mark, Verdict, Verdict | None]) -> list[str]:
    """@return: the cells of a verdict; that of the native loop is empty where there is none."""
    title, mark, pure, native = verdict
    bounds = dict.fromkeys([mark.describe(), mark.describe(True)]) if native else [mark.describe()]
    return [title, "; native ".join(bounds), pure.show(), native.show() if native else ""]


def row(workload: Workload, samples: dict[str, list[Sample]], first: str, name: str) -> Row:
    """@return: the figures of one server in one workload."""
    runs = samples[name]
    polled, slept = rounds(runs, "poll"), rounds(runs, "sleep")
    if not polled and not slept:
        small = runs[0]["window"] < workload.windowsize
        return Row(workload.title, name, refused=f"grants no window of {workload.windowsize}" if small else "no time")
    timed = [*polled.values(), *slept.values()]
    busy = [run["server_cpu"] / run["seconds"] for run in polled.values()]
    awake = [run["client_cpu"] / run["seconds"] for run in slept.values()]
    other = name != first
    return Row(
        workload.title,
        name,
        workload.unit,
        triple(map(rate, polled.values())) if polled else None,
        ratio(samples, first, name) if other else None,
        ratio(samples, first, name, "sleep") if other else None,
        ratio(samples, NATIVE, name) if NATIVE in samples and name != NATIVE else None,
        cost(workload, runs),
        median(busy) if busy else None,
        median(awake) if awake else None,
        runs[0]["memory"],
        (median(run["answer_p50"] for run in timed) * 1e3, median(run["answer_p99"] for run in timed) * 1e3),
        (sum(run["request_repeats"] for run in timed), sum(run["ack_repeats"] for run in timed)),
        sum(run["failures"] for run in timed),
        sum(run["disturbed"] for run in timed),
        len(timed),
    )


def summary(results: Results, machine: dict[str, str]) -> Run:
    """@return: the figures of all workloads of a run."""
    rows = []
    for name, samples in results.items():
        first = next(iter(samples))
        rows += [row(BY_NAME[name], samples, first, server) for server in samples]
    return Run(machine, rows, [told(verdict) for verdict in verdicts(results)])
