"""Writes docs/benchmarks.md and its picture from the runs that are kept: C{python benchmarks/page.py}.

The newest run in C{benchmarks/runs} is shown; beside it the ratios of older ones on other machines. Sections of the
page that others write (from L{GROWTH<facts.GROWTH>} on) stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from facts import DOCS, GROWTH
from figures import KINDS, Row, Run, Triple
from servers import BESIDE, NATIVE
from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
LIMITS = {workload.title: workload.limit for workload in WORKLOADS}
#: From this part of the time on a process is what limits.
FULL = 0.9


def load() -> list[Run]:
    """@return: the runs that are kept, the newest first."""
    found = [Run.of(json.loads(path.read_text())) for path in sorted(RUNS.glob("*.json"))]
    return sorted(found, key=lambda run: run.machine["when"], reverse=True)


def keep(run: Run) -> None:
    """Keep a run: one for each kind of processor and day."""
    kind = "".join(c if c.isalnum() else "-" for c in run.machine["processor"].partition(",")[0].lower())
    RUNS.mkdir(exist_ok=True)
    path = RUNS / f"{run.machine['when']}-{'-'.join(part for part in kind.split('-') if part)}.json"
    path.write_text(json.dumps(run.plain(), indent=1, ensure_ascii=False) + "\n")


def spread(values: Triple | None, digits: int, bold: bool = False) -> str:
    """@return: C{median (least to greatest)}."""
    if values is None:
        return ""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{f'**{middle}**' if bold else middle} ({low} to {high})"


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """@return: a table in Markdown; columns in which no line has a word are left out."""
    used = [place for place in range(len(head)) if any(line[place] for line in lines)]
    shown = [[cells[place] for place in used] for cells in (head, *lines)]
    rule = "|" + "---|" * len(used)
    rows = ["| " + " | ".join(cells) + " |" for cells in shown]
    return [rows[0], rule, *rows[1:]]


def part(value: float | None) -> str:
    """@return: a part of the time, in per cent."""
    return "" if value is None else f"{value:.0%}"


def cells(row: Row, olders: list[str]) -> list[str]:
    """@return: one row of the table of figures."""
    if row.refused:
        return [row.work, row.server, row.refused, *[""] * (11 + len(olders))]
    failed = "" if row.failed is None else str(row.failed)
    return [
        row.work,
        row.server,
        spread(row.rate, 1),
        spread(row.versus, 2, bold=True),
        spread(row.sleeping, 2),
        spread(row.native, 2, bold=True),
        *olders,
        "" if row.cpu is None else f"{row.cpu:.2f} a {row.unit}",
        part(row.server_busy),
        part(row.client_busy),
        "" if row.memory is None else f"{row.memory:.0f}",
        "" if row.answer is None else f"{row.answer[0]:.2f}, {row.answer[1]:.2f}",
        "" if row.asked is None else f"{row.asked[0]}, {row.asked[1]}",
        failed,
        f"{row.disturbed} of {row.runs}" if row.disturbed else "",
    ]


def label(run: Run) -> str:
    """@return: how a machine is called in the head of a column."""
    return f"{run.machine['processor'].partition(',')[0]}, {run.machine['when']}"


def figures(run: Run, olders: list[Run]) -> list[str]:
    """@return: the table of all figures."""
    before = [{(row.work, row.server): row for row in older.rows} for older in olders]
    lines = []
    for row in run.rows:
        found = [rows.get((row.work, row.server)) for rows in before]
        lines.append(cells(row, [spread(each.sleeping or each.versus, 2) if each else "" for each in found]))
    head = ["work", "server", "MiB/s", "castd ÷ it", "castd ÷ it, client sleeps", "castd-native ÷ it"]
    head += [f"castd ÷ it, client sleeps: {label(older)}" for older in olders]
    head += ["CPU µs", "server's CPU", "client's CPU, sleeping", "memory MiB", "first answer ms: median, 99 %"]
    return table([*head, "requests, ACKs repeated", "failed", "disturbed"], lines)


def limits(run: Run) -> Iterator[list[str]]:
    """@return: for each work what limits castd: by CPU times, and in words."""
    for row in run.rows:
        if KINDS.get(row.server) != "castd" or row.server_busy is None:
            continue
        if row.server_busy >= FULL:
            who = f"castd's CPU ({part(row.server_busy)})"
        elif (row.client_busy or 0) >= FULL:
            who = f"the load client ({part(row.client_busy)})"
        else:
            who = f"waiting: castd is busy for {part(row.server_busy)} of the time"
        yield [row.work, row.server, who, LIMITS.get(row.work, "")]


def machines(runs: list[Run]) -> list[str]:
    """@return: the machines side by side."""
    names = list(dict.fromkeys(name for run in runs for name in run.machine))
    head = ["", *(label(run) for run in runs)]
    return table(head, [[name, *(run.machine.get(name, "") for run in runs)] for name in names])


def markdown(runs: list[Run]) -> str:
    """
    @param runs: the one to show first.
    @return: the page, without what others write.
    """
    run, *others = runs
    olders = [each for each in others if each.machine["processor"] != run.machine["processor"]]
    lines = ["# castd beside its peers", ""]
    lines += [
        "Written by `sudo python benchmarks/run.py --docs`; `benchmarks/README.md` says how it is measured. Ratios"
    ]
    lines += ["travel to other machines, absolute figures do not.", "", *machines([run, *olders]), ""]
    lines += ["![throughput of castd divided by each peer's](benchmarks.svg)", ""]
    if run.marks:
        lines += ["## Marks", "", "What castd has to show beside the peers of the same run; the load client polls."]
        lines += ["", *table(["work", "mark", "castd", "castd-native"], run.marks), ""]
    if run.rows:
        lines += ["## Figures", "", *FIGURES]
        if any(row.server == NATIVE for row in run.rows):
            lines += ["`castd-native` is castd with its native loop, `castd` without."]
        if any(row.server == BESIDE for row in run.rows):
            lines += ["`castd-beside` is the castd of another checkout, by the Python named above."]
        lines += ["", *figures(run, olders), ""]
    for title, rows, about in (
        ("Mixed halls", run.halls, HALLS),
        ("Groups on the wire", run.wire, WIRE),
    ):
        if rows:
            lines += [f"## {title}", "", *about, "", *table(rows[0], rows[1:]), ""]
    bounds = list(limits(run))
    if bounds:
        lines += ["## What limits each", "", *table(["work", "server", "busy", "why"], bounds), ""]
    for each in (run, *olders):
        if each.notes:
            lines += [f"## About the run of {each.machine['when']}", "", *each.notes, ""]
    return "\n".join(lines)


FIGURES = (
    "Medians, least and greatest in parentheses. Where these are equal there was one round: on a virtual machine it is",
    "off by up to a third, and so is a mark that is judged by it. Ratios of the same round. `ceiling` is no peer: it",
    "does the least that a server can do, in C, without limits, rules, log, or a look at whether a file has changed.",
)
HALLS = (
    "Everything at the same time, from clients that sleep and share one CPU: 32 machines that read 1 MiB in lockstep,",
    "a storm of 16 KiB files, 32 at a time, and in the first hall a group of 16 (RFC 2090). Meanwhile a file is asked",
    "for 100 times a second: how long its first answer takes, by the kernel's clocks.",
)
WIRE = (
    "Real clients in network namespaces (`benchmarks/groups.py`): octets that the server sent for each octet of the",
    "file, frames and all. And what a sender of a group can offer when nobody listens (`benchmarks/sendpath.py`).",
)

COLOURS = {"dnsmasq": "#0072b2", "atftpd": "#d55e00", "tftpd-hpa": "#009e73", "tftp": "#cc79a7", "castd": "#000000"}
FONT = 'font-family="sans-serif" font-size="12"'
LEFT, WIDTH, LINE, TOP = 290, 900, 13, 56
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def dots(run: Run) -> dict[str, list[tuple[str, Triple, bool]]]:
    """@return: for each work (server, castd's throughput divided by its, whether castd had its native loop)."""
    found: dict[str, list[tuple[str, Triple, bool]]] = {}
    for row in run.rows:
        for values, native in ((row.versus or row.sleeping, False), (row.native, True)):
            if values and all(map(math.isfinite, values)) and KINDS.get(row.server) != "castd":
                found.setdefault(row.work, []).append((row.server, values, native))
    return found


def chart(run: Run) -> str:
    """@return: an SVG: for each work a row of dots, one for each peer, at castd's throughput divided by the peer's, on
    a logarithmic axis; hollow ones are castd with its native loop; whiskers are the least and the greatest round."""
    shown = dots(run)
    values = [v for found in shown.values() for _, triple, _ in found for v in triple] or [1.0]
    bounds = math.log(min(0.5, *values)), math.log(max(2.0, *values))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 30) * (math.log(value) - bounds[0]) / (bounds[1] - bounds[0])

    body, y = [], TOP
    for work, found in shown.items():
        top, y = y, y + LINE * len(found) + 10
        body.append(f'<text x="{LEFT - 12}" y="{(top + y) / 2}" text-anchor="end">{escape(work)}</text>')
        body.append(f'<line x1="0" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        for place, (name, (low, middle, high), native) in enumerate(found):
            at, ink = top + 10 + LINE * place, COLOURS.get(name, "#888")
            body.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{at}" y2="{at}" stroke="{ink}"/>')
            fill = "#fff" if native else ink
            body.append(f'<circle cx="{x(middle):.1f}" cy="{at}" r="4" fill="{fill}" stroke="{ink}"/>')
    grid = []
    for tick in (each for each in TICKS if bounds[0] <= math.log(each) <= bounds[1]):
        ink = "#000" if tick == 1 else "#ccc"
        grid.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{y}" stroke="{ink}"/>')
        grid.append(f'<text x="{x(tick):.1f}" y="{TOP - 10}" text-anchor="middle">{tick:g}</text>')
    names = list(dict.fromkeys(name for found in shown.values() for name, _, _ in found))
    legend = ['<text x="8" y="18">throughput of castd ÷ that of</text>']
    for place, name in enumerate(names):
        at = LEFT + 110 * place
        legend.append(f'<circle cx="{at}" cy="14" r="4" fill="{COLOURS.get(name, "#888")}"/>')
        legend.append(f'<text x="{at + 9}" y="18">{escape(name)}</text>')
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" {FONT}>'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([opening, paper, *legend, *grid, *body, "</svg>"]) + "\n"


def write(docs: Path = DOCS) -> None:
    """Write the page and the picture; what others have written on the page stays."""
    runs, page = load(), docs / "benchmarks.md"
    old = page.read_text() if page.exists() else ""
    theirs = old[old.index(GROWTH) :] if GROWTH in old else ""
    page.write_text(markdown(runs) + (f"\n{theirs}" if theirs else ""))
    (docs / "benchmarks.svg").write_text(chart(runs[0]))


if __name__ == "__main__":
    write()
