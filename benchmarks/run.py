"""Measures castd beside its peers in the same run: C{python benchmarks/run.py}. See benchmarks/README.md."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from figures import Machine, Results, Sample, chart, markdown
from rich.console import Console
from servers import BESIDE, SERVERS, Running, Server, castd
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
console = Console(stderr=True)


class Bench:
    """One run: a directory of files, the compiled load client, and the two CPUs that server and client get."""

    def __init__(self, room: Path, cpus: tuple[int, int]) -> None:
        self.room, self.root = room, room / "files"
        self.serverCpu, self.clientCpu = cpus
        self.root.mkdir()
        for directory in (room, self.root):
            directory.chmod(0o755)
        self.load = room / "load"
        compiler = shutil.which("cc")
        if compiler is None:
            raise click.ClickException("a C compiler (cc) is needed for the load client")
        subprocess.run([compiler, "-O2", "-Wall", "-o", str(self.load), str(HERE / "load.c")], check=True)
        os.sched_setaffinity(0, {self.clientCpu})

    def file(self, size: int) -> str:
        """@return: the name of a file of C{size} octets, the same octets in every run."""
        path = self.root / f"{size}.bin"
        if not path.exists():
            path.write_bytes(random.Random(size).randbytes(size))
            path.chmod(0o644)
        return path.name

    def start(self, server: Server, workload: Workload) -> tuple[Running, Sample]:
        """Start a server and wait until it has served one file.

        @raise click.ClickException: with what it printed, when it does not serve.
        """
        running = Running(server, self.root, self.room, self.serverCpu)
        deadline = time.monotonic() + 20
        while running.alive() and time.monotonic() < deadline:
            sample = self.ask(running, workload, 0, 1, patience=2)
            if sample and not sample["failures"]:
                return running, sample
        running.end()
        raise click.ClickException(f"{server.name} does not serve:\n{running.log.read_text()[-2000:]}")

    def ask(
        self, running: Running, workload: Workload, seed: int, transfers: int | None = None, patience: int = 16
    ) -> Sample:
        """Let the load client do C{workload} once, while the server's memory is looked at if C{seed} is 0.

        @return: what the client counted, with the server's CPU seconds; empty when the client could not even end.
        """
        name = self.file(workload.size)
        words = ["taskset", "--cpu-list", str(self.clientCpu), str(self.load), "127.0.0.1", str(running.server.port)]
        words += [str(self.root), name, *workload.arguments(seed, transfers), "--patience", str(patience)]
        before, memory = running.group.seconds(), 0.0
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            while seed == 0 and client.poll() is None:  # looking costs CPU: never in a timed round
                looked = time.monotonic()
                memory = max(memory, running.group.memory())
                time.sleep(max(0.02, 5 * (time.monotonic() - looked)))
            said, complaint = client.communicate(timeout=600)
        if client.returncode:
            return {}
        sample: dict[str, Any] = json.loads(said)
        sample["server_cpu"] = running.group.seconds() - before
        sample["memory"] = memory
        if complaint and transfers is None:
            console.print(f"  {running.server.name}: {complaint.strip()}", style="yellow", markup=False)
        return sample

    def compare(self, workload: Workload, servers: list[Server], rounds: int) -> dict[str, list[Sample]]:
        """Every server in turn, C{rounds} times, after one round that warms up and looks at memory.

        @return: for each server its samples, the untimed one first; only one for a server without windows where the
            workload wants them.
        """
        ready: dict[str, Running] = {}
        samples: dict[str, list[Sample]] = {}
        try:
            for server in servers:
                ready[server.name], first = self.start(server, workload)
                if first["window"] < workload.windowsize:
                    samples[server.name] = [first]
                    ready.pop(server.name).end()
            names = list(ready)
            for number in range(rounds + 1):
                turn = number % len(names)  # no server is always the first
                for name in names[turn:] + names[:turn]:
                    sample = self.ask(ready[name], workload, number)
                    samples.setdefault(name, []).append(sample)
                    rate = sample["octets"] / sample["seconds"] / 2**20
                    console.print(f"  {workload.name} {number}/{rounds} {name}: {rate:.1f} MiB/s", highlight=False)
        finally:
            for running in ready.values():
                running.end()
        return {server.name: samples[server.name] for server in servers}


def choose(wanted: str | None, beside: Path | None) -> list[Server]:
    """@return: the servers named, or all that are installed; C{beside} alone is compared with this castd alone."""
    if beside is not None:
        other = castd(BESIDE, 7073, str(beside.resolve()))
        return [*choose(wanted or "castd", None), other]
    if wanted is None:
        for server in SERVERS:
            if not server.present():
                console.print(f"{server.name} is not installed: left out", style="yellow")
        return [server for server in SERVERS if server.present()]
    known = {server.name: server for server in SERVERS}
    try:
        return [known[name] for name in wanted.split(",")]
    except KeyError as unknown:
        raise click.BadParameter(f"{unknown} is none of {', '.join(known)}") from None


@click.command()
@click.option("--quick", is_flag=True, help="Three rounds and a quarter of the transfers: a look, not a measurement.")
@click.option("--only", help="Workloads by name, separated by commas.")
@click.option("--servers", help="Servers by name, separated by commas; the first is compared with the others.")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Another checkout, such as that of the commit before a change: its castd takes part as castd-beside.",
)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Timed rounds for each workload.")
@click.option("--cpus", default="0,1", show_default=True, help="The server's CPU and the client's.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample there (JSON).")
@click.option("--docs", is_flag=True, help="Write docs/benchmarks.md and docs/benchmarks.svg.")
def main(
    quick: bool,
    only: str | None,
    servers: str | None,
    beside: Path | None,
    rounds: int,
    cpus: str,
    save: Path | None,
    docs: bool,
) -> None:
    """Measure castd beside its peers, interleaved, and print the ratios.

    With --save FILE, workloads that FILE has already and that are not measured now are shown beside the new ones.
    """
    chosen = [w for w in WORKLOADS if only is None or w.name in only.split(",")]
    if not chosen:
        raise click.BadParameter(f"no workload of that name; there are {', '.join(w.name for w in WORKLOADS)}")
    peers = choose(servers, beside)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended too
    server, _, client = cpus.partition(",")
    kept: Results = json.loads(save.read_text()) if save and save.exists() else {}
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="castd-bench-") as room:
        bench = Bench(Path(room), (int(server), int(client)))
        for workload in chosen:
            asked = workload.shortened(4) if quick else workload
            results[workload.name] = bench.compare(asked, peers, 3 if quick else rounds)
            if save:  # keeps the results so far, if the next workload is interrupted
                save.write_text(json.dumps(kept | results, indent=1))
    machine = Machine.here({peer.name: peer.version() for peer in peers}, 3 if quick else rounds)
    measured = kept | results
    results = {workload.name: measured[workload.name] for workload in WORKLOADS if workload.name in measured}
    text = markdown(results, machine)
    click.echo(text)
    if docs:
        (DOCS / "benchmarks.md").write_text(text)
        (DOCS / "benchmarks.svg").write_text(chart(results))


if __name__ == "__main__":
    main()
