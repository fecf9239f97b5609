"""Computes ratios from samples, and writes the table and the picture."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from servers import BESIDE, SERVERS
from workloads import WORKLOADS, Workload

Sample = dict[str, Any]
"""What the load client printed about one run, and C{server_cpu} (seconds) and C{memory} (MiB)."""

Results = dict[str, dict[str, list[Sample]]]
"""Workload, then server, then its samples: the untimed one first."""

BY_NAME: dict[str, Workload] = {workload.name: workload for workload in WORKLOADS}
KINDS = {server.name: server.kind for server in SERVERS} | {BESIDE: "castd"}
HEAD = (
    "work",
    "server",
    "MiB/s",
    "{first} ÷ it",
    "mark",
    "CPU µs a block",
    "client's CPU",
    "memory MiB",
    "requests, ACKs repeated",
    "failed",
)


@dataclass(frozen=True)
class Machine:
    """The machine and the versions with which the figures were taken."""

    facts: dict[str, str]

    @classmethod
    def here(cls, versions: dict[str, str], rounds: int) -> Machine:
        """@return: this machine, with the servers' versions."""
        cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?: ?")
        return cls(
            {
                "when": datetime.now(UTC).strftime("%Y-%m-%d"),
                "processor": f"{cpu.partition(':')[2].strip()}, {os.cpu_count()} CPUs",
                "kernel": f"{platform.system()} {platform.release()}",
                "Python": platform.python_version(),
                "servers": ", ".join(f"{name} {version}" for name, version in versions.items()),
                "timed rounds": str(rounds),
                "load average at the end": f"{os.getloadavg()[1]:.1f} (the run itself adds up to 2)",
            }
        )


@dataclass(frozen=True)
class Spread:
    """The median, the least and the greatest of several values."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """@param values: at least one."""
        return cls(min(values), median(values), max(values))

    def show(self, digits: int) -> str:
        """@return: C{median (least to greatest)}."""
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def rate(sample: Sample) -> float:
    """@return: MiB of the file a second."""
    return float(sample["octets"] / sample["seconds"] / 2**20)


def ratio(samples: dict[str, list[Sample]], first: str, peer: str) -> Spread:
    """Compare two servers round by round, so that a disturbance of the machine in one round affects both.

    @return: how many times as fast as C{peer} C{first} was.
    """
    pairs = zip(samples[first][1:], samples[peer][1:], strict=True)
    return Spread.of([rate(mine) / rate(its) if its["octets"] else math.inf for mine, its in pairs])


def marked(workload: Workload, samples: dict[str, list[Sample]], first: str, peer: str) -> tuple[str, float] | None:
    """@return: the name under which C{peer} carries a mark of C{workload}, and the mark; C{None} if it has none."""
    if peer in workload.marks:
        return peer, workload.marks[peer]
    kind = KINDS[peer]
    rivals = [name for name, runs in samples.items() if name != first and KINDS[name] == kind and len(runs) > 1]
    best = max(rivals, key=lambda name: median(map(rate, samples[name][1:])), default=None)
    mark = workload.marks.get(f"best-{kind}")
    return (f"best-{kind}", mark) if mark is not None and best == peer else None


def row(workload: Workload, samples: dict[str, list[Sample]], first: str, name: str) -> list[str]:
    """@return: the cells of one server in one workload."""
    runs = samples[name]
    if len(runs) == 1:
        return [workload.title, name, f"grants no window of {workload.windowsize}", *[""] * (len(HEAD) - 3)]
    timed, versus, mark = runs[1:], "", ""
    if name != first and len(samples[first]) > 1:
        spread = ratio(samples, first, name)
        versus = f"**{spread.middle:.2f}** ({spread.low:.2f} to {spread.high:.2f})"
        if first == "castd" and (found := marked(workload, samples, first, name)):
            mark = f"≥ {found[1]} {'met' if spread.middle >= found[1] else '**missed**'}"
    costs = [run["server_cpu"] / run["blocks"] for run in timed if run["blocks"]]
    memory = f"{runs[0]['memory']:.0f}"
    if name == "castd" and workload.memory is not None:
        memory += f" (≤ {workload.memory:.0f} {'met' if runs[0]['memory'] <= workload.memory else '**missed**'})"
    return [
        workload.title,
        name,
        Spread.of([rate(run) for run in timed]).show(1),
        versus,
        mark,
        f"{median(costs) * 1e6:.2f}" if costs else "all failed",
        f"{median(run['client_cpu'] / run['seconds'] for run in timed):.0%}",
        memory,
        f"{sum(run['request_repeats'] for run in timed)}, {sum(run['ack_repeats'] for run in timed)}",
        str(sum(run["failures"] for run in timed)),
    ]


def markdown(results: Results, machine: Machine) -> str:
    """@return: the page: the machine, the picture, one table."""
    first = next(iter(next(iter(results.values()))))
    head = [cell.format(first=first) for cell in HEAD]
    lines = ["# castd beside its peers", ""]
    lines += [f"* {name}: {fact}" for name, fact in machine.facts.items()]
    lines += ["", "![throughput of castd divided by each peer's](benchmarks.svg)", ""]
    lines += ["Medians, least and greatest in parentheses; ratios of the same round. How: `benchmarks/README.md`.", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for workload, samples in results.items():
        for name in samples:
            lines.append("| " + " | ".join(row(BY_NAME[workload], samples, first, name)) + " |")
    return "\n".join(lines) + "\n"


COLOURS = {"dnsmasq": "#0072b2", "atftpd": "#d55e00", "tftpd-hpa": "#009e73", "tftp": "#cc79a7", "castd": "#000000"}
FONT = 'font-family="sans-serif" font-size="12"'
LEFT, WIDTH, LINE, TOP = 250, 860, 13, 56


def chart(results: Results) -> str:
    """@return: an SVG: for each workload a row of dots, one for each peer, at castd's throughput divided by the
    peer's, on a logarithmic axis; the whiskers are the least and the greatest round."""
    first = next(iter(next(iter(results.values()))))
    spreads = [
        (workload, [(n, ratio(samples, first, n)) for n, runs in samples.items() if n != first and len(runs) > 1])
        for workload, samples in results.items()
        if len(samples[first]) > 1
    ]
    spreads = [(w, [(n, s) for n, s in peers if math.isfinite(s.high)]) for w, peers in spreads]
    values = [v for _, peers in spreads for _, s in peers for v in (s.low, s.high)] or [1.0]
    bounds = math.log(min(0.5, *values, 1)), math.log(max(2.0, *values, 1))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 30) * (math.log(value) - bounds[0]) / (bounds[1] - bounds[0])

    body, y = [], TOP
    for workload, peers in spreads:
        top, y = y, y + LINE * len(peers) + 10
        body.append(
            f'<text x="{LEFT - 12}" y="{(top + y) / 2}" text-anchor="end">{escape(BY_NAME[workload].title)}</text>'
        )
        body.append(f'<line x1="0" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        for place, (name, spread) in enumerate(peers):
            at, ink = top + 10 + LINE * place, COLOURS[name]
            body.append(
                f'<line x1="{x(spread.low):.1f}" x2="{x(spread.high):.1f}" y1="{at}" y2="{at}" stroke="{ink}"/>'
            )
            body.append(f'<circle cx="{x(spread.middle):.1f}" cy="{at}" r="4" fill="{ink}"/>')
    ticks = [
        t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if bounds[0] <= math.log(t) <= bounds[1]
    ]
    grid = []
    for t in ticks:
        ink = "#000" if t == 1 else "#ccc"
        grid.append(f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP - 6}" y2="{y}" stroke="{ink}"/>')
        grid.append(f'<text x="{x(t):.1f}" y="{TOP - 10}" text-anchor="middle">{t:g}</text>')
    shown = list(dict.fromkeys(name for _, peers in spreads for name, _ in peers))
    legend = [f'<text x="8" y="18">throughput of {first} ÷ that of</text>']
    for place, name in enumerate(shown):
        at = LEFT + 110 * place
        legend.append(
            f'<circle cx="{at}" cy="14" r="4" fill="{COLOURS[name]}"/><text x="{at + 9}" y="18">{name}</text>'
        )
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" {FONT}>'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([opening, paper, *legend, *grid, *body, "</svg>"]) + "\n"
