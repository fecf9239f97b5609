"""Measures castd beside its peers in the same run: C{python benchmarks/run.py}. See benchmarks/README.md."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click
import halls
import page
from bench import HERE, Bench, Clock, console, isolate
from figures import Results, Run, here, summary
from marks import Mark, Verdict
from servers import BESIDE, NATIVE, SERVERS, Server, castd
from workloads import WORKLOADS, Workload

#: Parts of the time that are worth more than one workload's.
HALLS_PARTS, WIRE_PARTS = 2, 3


def choose(wanted: str | None, beside: Path | None) -> list[Server]:
    """@return: the servers named, or all that are installed, with that of C{beside}."""
    other = [castd(BESIDE, 7073, str(beside.resolve()))] if beside is not None else []
    if wanted is None:
        for server in SERVERS:
            if not server.present():
                console.print(f"{server.name} is not installed: left out", style="yellow")
        return [server for server in SERVERS if server.present()] + other
    known = {server.name: server for server in SERVERS}
    try:
        return [known[name] for name in wanted.split(",")] + other
    except KeyError as unknown:
        raise click.BadParameter(f"{unknown} is none of {', '.join(known)}") from None


def compare(
    bench: Bench, chosen: list[Workload], peers: list[Server], rounds: tuple[int, int], clock: Clock, more: int
) -> Results:
    """Do each workload; what begins after the end of the time is left out.

    @param more: parts of the time that are for others afterwards.
    """
    results: Results = {}
    for place, workload in enumerate(chosen):
        if clock.left() <= 0:
            console.print(f"{workload.name}: left out, the time is over", style="red")
            continue
        able = [server for server in peers if server.does(workload)]
        if found := bench.compare(workload, able, rounds, clock.share(len(chosen) - place + more)):
            results[workload.name] = found
    return results


#: What groups on the wire have to show: (work of groups.py, mark).
WIRE_MARKS = (
    ("at-once", Mark("wire", 1.05)),
    ("joining", Mark("wire", 1.1)),
    ("slam", Mark("wire", 1.05)),
    ("at-once", Mark("seconds", 0.0, against="atftpd")),
)
TITLES = {
    "at-once": "RFC 2090, 16 × 8 MiB at once (floor 1.032)",
    "joining": "the same, joining over 1.5 s",
    "slam": "SLAM, 16 × 1 MiB at once (floor 1.037)",
}
SENDER = Mark("packets", 5.0)


def script(name: str, room: Path, words: list[str], seconds: float) -> Any:
    """Run another benchmark, on any CPU.

    @return: what it wrote as JSON; L{None} if it failed or took too long.
    """
    out = room / f"{name}.json"
    command = ["taskset", "--cpu-list", "0-1023", sys.executable, str(HERE / f"{name}.py"), "--json", str(out), *words]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        complaint = client.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        client.terminate()
        complaint = client.communicate()[1] + "\nit took too long"
    if client.returncode or not out.exists():
        console.print(f"{name}.py: {complaint[-1000:]}", style="red", markup=False)
        return None
    return json.loads(out.read_text())


def wire(room: Path, runs: int, seconds: float) -> tuple[list[list[str]], list[list[str]]]:
    """
    Measure groups by real clients, and what a sender can offer.

    @return: rows of the table, its head first; and of the table of marks.
    """
    words = [word for work in TITLES for word in ("--only", work)]
    found = script("groups", room, ["--runs", str(runs), *words], seconds) or {}
    rows, marks = [["work", "server", "octets on the wire / file", "seconds", "of them gathering", "whole copies"]], []
    for work, servers in found.items():
        for server, samples in servers.items():
            octets, seconds, gathered = (median(run[key] for run in samples) for key in ("wire", "seconds", "gathered"))
            done = f"{sum(run['done'] for run in samples)} of {16 * len(samples)}"
            rows.append(
                [TITLES[work], server, f"{octets:.3f}", f"{seconds:.2f}", f"{gathered:.2f}" if gathered else "", done]
            )
    for work, mark in WIRE_MARKS:
        verdict = Verdict(mark, False, onWire(found.get(work, {}), mark))
        marks.append([TITLES[work], mark.describe(), verdict.show(), ""])
    sent = script("sendpath", room, ["--rounds", "3"], 60) or {}
    if ways := sent.get("multicast: wire image, UDP_SEGMENT"):
        offered = 1 / median(ways)
        rows.append(
            ["a multicast sender, nobody listens", "castd's way of sending", "", "", "", f"{offered:.1f} million/s"]
        )
        marks.append(
            ["a multicast sender, nobody listens", SENDER.describe(), Verdict(SENDER, False, offered).show(), ""]
        )
    return rows, marks


def onWire(servers: dict[str, list[dict[str, Any]]], mark: Mark) -> float | None:
    """@return: castd's figure for a mark; of seconds, those beyond the peer's and its own gathering."""

    def middle(server: str) -> float | None:
        if not servers.get(server):
            return None
        gathered = "gathered" if mark.measure == "seconds" else ""
        return median(run[mark.measure] - run.get(gathered, 0.0) for run in servers[server])

    mine = middle("castd")
    if not mark.against or mine is None:
        return mine
    its = middle(mark.against)
    return None if its is None else max(0.0, mine - its)


@click.command()
@click.option("--quick", is_flag=True, help="Two rounds and a quarter of the transfers, five minutes: a look, no more.")
@click.option("--only", help="Workloads by name, separated by commas; also halls, wire.")
@click.option("--servers", help="Servers by name, separated by commas; the first is compared with the others.")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Another checkout, such as that of the commit before a change: its castd takes part as castd-beside.",
)
@click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="With a client that polls, at most."
)
@click.option("--sleeps", default=3, show_default=True, type=click.IntRange(0), help="With one that sleeps, at most.")
@click.option("--minutes", default=16.0, show_default=True, help="That the whole may take, about; 5 with --quick.")
@click.option("--cpus", default="0,1", show_default=True, help="The server's CPU and the client's.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample there (JSON).")
@click.option(
    "--docs", is_flag=True, help="Keep the figures in benchmarks/runs, and write docs/benchmarks.md and .svg."
)
def main(
    quick: bool,
    only: str | None,
    servers: str | None,
    beside: Path | None,
    rounds: int,
    sleeps: int,
    minutes: float,
    cpus: str,
    save: Path | None,
    docs: bool,
) -> None:
    """Measure castd beside its peers, interleaved, and print the page."""
    words = None if only is None else only.split(",")
    known = [*(w.name for w in WORKLOADS), "halls", "wire"]
    if words and (unknown := set(words) - set(known)):
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}")
    isolate()
    peers = choose(servers, beside)
    if quick:
        rounds, sleeps, minutes = min(rounds, 2), min(sleeps, 1), min(minutes, 5.0)
    chosen = [w.shortened(4) if quick else w for w in WORKLOADS if words is None or w.name in words]
    withHalls, withWire = (words is None or name in words for name in ("halls", "wire"))
    server, _, client = cpus.partition(",")
    clock = Clock(minutes * 60)
    with tempfile.TemporaryDirectory(prefix="castd-bench-") as folder:
        room = Path(folder)
        bench = Bench(room, (int(server), int(client)))
        after = HALLS_PARTS * withHalls + WIRE_PARTS * withWire
        results = compare(bench, chosen, peers, (rounds, sleeps), clock, after)
        if save:
            save.write_text(json.dumps(results, indent=1))
        versions = {peer.name: peer.version() for peer in peers if peer.kind != "ceiling" and peer.name != NATIVE}
        run = summary(results, here(versions, results))
        if missing := [workload.title for workload in chosen if workload.name not in results]:
            run.machine["left out, as the time was over"] = "; ".join(missing)
        if withHalls and clock.left() > 0:
            run.halls = halls.measure(bench, peers, 1 if quick else 3, 2.0, clock.share(2))
        if withWire and clock.left() > 0:
            run.wire, marks = wire(room, 1 if quick else 3, max(120.0, clock.left()))
            run.marks += marks
    report(run, docs)


def report(run: Run, docs: bool) -> None:
    """Print the page; with C{docs}, keep the run and write the page."""
    click.echo(page.markdown([run]))
    if docs:
        page.keep(run)
        page.write()


if __name__ == "__main__":
    main()
