"""Measures what it costs to be watched: log, history, page and recorder, each on and off in one run.

    sudo .venv/bin/python benchmarks/watching.py           # some five minutes
    sudo .venv/bin/python benchmarks/watching.py --quick

One castd for each, all of this checkout, which take turns as in C{run.py}; CPU time for a small file (a storm) and for
a block (64 clients in lockstep), divided by that of the castd that tells nothing to anybody, of the same round. It has
a history all the same, in memory: that cannot be turned off.
"""

from __future__ import annotations

import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from bench import Bench, Clock, isolate
from facts import fillIn, today
from figures import BY_NAME, Results, Sample, Triple, rounds, triple, units
from servers import Server, castd
from workloads import Workload

NOTHING = "nothing"
PAGE, LOOKED = 9147, 9148
ALL = """\
history: {{path: '{room}/all.sqlite'}}
metrics: {{listen: '127.0.0.1:9149', page: true}}
recorder: {{directory: '{room}/all'}}
"""
#: What is on, and how: level of the log, other keys of it, other sections.
WATCHERS: dict[str, tuple[str, str, str]] = {
    NOTHING: ("warn", "", ""),
    "log, as text": ("info", ", format: text, file: '{room}/text.log'", ""),
    "log, as JSON": ("info", ", format: json, file: '{room}/json.log'", ""),
    "events, as JSON": ("warn", ", json: '{room}/events.json'", ""),
    "history in a file": ("warn", "", "history: {{path: '{room}/history.sqlite'}}\n"),
    "page, nobody looks": ("warn", "", f"metrics: {{{{listen: '127.0.0.1:{PAGE}', page: true}}}}\n"),
    "page, read each second": ("warn", "", f"metrics: {{{{listen: '127.0.0.1:{LOOKED}', page: true}}}}\n"),
    "recorder": ("warn", "", "recorder: {{directory: '{room}/captures'}}\n"),
    "all of these": (
        "info",
        ", format: text, file: '{room}/all.log', json: '{room}/all.json'",
        ALL,
    ),
}
WORKS = ("storm", "lockstep-64")
FIRST_PORT = 7100


def servers() -> list[Server]:
    """@return: a castd for each."""
    return [
        castd(name, FIRST_PORT + place, level=level, logging=logging, extra=extra)
        for place, (name, (level, logging, extra)) in enumerate(WATCHERS.items())
    ]


@contextmanager
def looking(every: float = 1.0) -> Iterator[None]:
    """Read page and metrics again and again, as somebody does who has them open."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            for path in ("", "metrics"):
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{LOOKED}/{path}", timeout=5) as page:
                    page.read()

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join(10)


def expense(workload: Workload, sample: Sample) -> float:
    """@return: microseconds of the server's CPU for one unit."""
    return float(sample["server_cpu"] / units(workload, sample) * 1e6)


def costs(workload: Workload, samples: dict[str, list[Sample]]) -> dict[str, tuple[Triple, Triple]]:
    """@return: by what is on: microseconds for one unit, and that as a part of nothing's in the same round."""
    base = {number: expense(workload, run) for number, run in rounds(samples[NOTHING], "poll").items()}
    found = {}
    for name, runs in samples.items():
        mine = {number: expense(workload, run) for number, run in rounds(runs, "poll").items()}
        found[name] = triple(mine.values()), triple(mine[number] / base[number] for number in mine if number in base)
    return found


def table(results: Results) -> list[str]:
    """@return: the lines of a table in Markdown: median, the median of the rounds' ratios, the ratio of the least."""
    columns = {name: costs(BY_NAME[name], samples) for name, samples in results.items()}
    heads = [f"{BY_NAME[name].title}: µs a {BY_NAME[name].unit} | × nothing | least × least" for name in columns]
    lines = ["| on | " + " | ".join(heads) + " |", "|---|" + "---|" * 3 * len(columns)]
    for name in next(iter(columns.values())):
        cells = []
        for found in columns.values():
            (least, middle, _), (_, times, _) = found[name]
            cells += [f"{middle:.2f}", f"{times:.2f}", f"{least / found[NOTHING][0][0]:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


@click.command()
@click.option("--quick", is_flag=True, help="Two rounds and a quarter of the transfers: a look, no more.")
@click.option("--rounds", "many", default=7, show_default=True, type=click.IntRange(1))
@click.option("--minutes", default=8.0, show_default=True, help="That the whole may take, about.")
@click.option("--cpus", default="0,1", show_default=True, help="The server's CPU and the client's.")
@click.option("--docs", is_flag=True, help="Write the table into docs/operations.md.")
def main(quick: bool, many: int, minutes: float, cpus: str, docs: bool) -> None:
    """Print what each costs."""
    isolate()
    server, _, client = cpus.partition(",")
    results: Results = {}
    clock = Clock(minutes * 60)
    with tempfile.TemporaryDirectory(prefix="castd-watching-") as folder, looking():
        room = Path(folder)
        for name in ("captures", "all"):
            (room / name).mkdir()
        bench = Bench(room, (int(server), int(client)))
        for place, name in enumerate(WORKS):
            workload = BY_NAME[name].shortened(4) if quick else BY_NAME[name]
            share = clock.share(len(WORKS) - place)
            if found := bench.compare(workload, servers(), (2 if quick else many, 0), share):
                results[name] = found
    if not results:
        raise click.ClickException("the time was over before the first round")
    lines = table(results)
    click.echo("\n".join(lines))
    if docs:
        fillIn("operations.md", "watching.py", [f"{today()}.", "", *lines])


if __name__ == "__main__":
    main()
