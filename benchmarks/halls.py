"""Runs mixed halls: unicast, a storm and a group at the same time, and how long a first answer takes meanwhile."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench import Bench, Clock, console
from neighbours import Cpus, Disturbance
from servers import Running, Server
from workloads import KIB, MIB, Workload

HEAD = ["hall", "server", "unicast MiB/s", "storm files/s", "group MiB/s"]
HEAD += ["first answer ms: median", "99 %", "server's CPU", "failed", "disturbed"]
#: First answers are asked for so often, by as many ports.
PROBES, PORTS = 100, 64


@dataclass(frozen=True)
class Hall:
    """
    What is done at the same time.

    @ivar parts: by name, the workload whose clients go on for as long as the hall lasts.
    """

    title: str
    parts: dict[str, Workload]

    @property
    def grouped(self) -> bool:
        """Whether there is a group."""
        return "group" in self.parts


UNICAST = Workload("unicast", "", 32, 32)
STORM = Workload("storm", "", 32, 32, 16 * KIB)
GROUP = Workload("group", "", 16, 16, 8 * MIB, kind="group", blksize=1428)
PROBE = Workload("probe", "", PORTS, PORTS, 32 * KIB)
HALLS = (
    Hall("unicast, storm and group", {"unicast": UNICAST, "storm": STORM, "group": GROUP}),
    Hall("unicast and storm", {"unicast": UNICAST, "storm": STORM}),
)


def play(bench: Bench, running: Running, hall: Hall, seconds: float) -> dict[str, Any]:
    """@return: by part what its clients counted, and C{cpu}, C{disturbed}."""
    clients = {}
    before, began = Cpus.now(bench.cpus), running.group.seconds()
    for name, part in (hall.parts | {"probe": PROBE}).items():
        words = [*part.arguments(1, False), "--seconds", str(seconds)]
        words += ["--rate", str(PROBES)] if name == "probe" else []
        command = bench.command(running.server, bench.files(part), words)
        clients[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told: dict[str, Any] = {name: json.loads(client.communicate(timeout=90)[0]) for name, client in clients.items()}
    longest = max(part["seconds"] for part in told.values())
    cpu = running.group.seconds() - began
    own = cpu + sum(part["client_cpu"] for part in told.values())
    noise = Disturbance.between(before, Cpus.now(bench.cpus), own, longest)
    return told | {"cpu": cpu / longest, "disturbed": noise.serious}


def line(hall: Hall, server: str, runs: list[dict[str, Any]]) -> list[str]:
    """@return: one row of the table: medians of the rounds."""

    def middle(part: str, key: str, factor: float = 1.0) -> float:
        return (
            median(run[part][key] / (run[part]["seconds"] if key in ("octets", "ended") else 1) for run in runs)
            * factor
        )

    failed = sum(run[part]["failures"] for run in runs for part in (*hall.parts, "probe"))
    return [
        hall.title,
        server,
        f"{middle('unicast', 'octets', 1 / MIB):.1f}",
        f"{middle('storm', 'ended'):.0f}",
        f"{middle('group', 'octets', 1 / MIB):.1f}" if hall.grouped else "",
        f"{middle('probe', 'answer_p50', 1e3):.2f}",
        f"{middle('probe', 'answer_p99', 1e3):.2f}",
        f"{median(run['cpu'] for run in runs):.0%}",
        str(failed),
        f"{sum(run['disturbed'] for run in runs)} of {len(runs)}",
    ]


def measure(bench: Bench, servers: list[Server], rounds: int, seconds: float, clock: Clock) -> list[list[str]]:
    """
    Play each hall with each server that can serve it, in turn.

    @return: the rows of the table, the head first.
    """
    rows = [HEAD]
    for hall in HALLS:
        chosen = [server for server in servers if not hall.grouped or "group" in server.kinds]
        ready: dict[str, Running] = {}
        runs: dict[str, list[dict[str, Any]]] = {}
        try:
            for server in chosen:
                ready[server.name] = bench.start(server, GROUP if hall.grouped else UNICAST)[0]
            for number in range(rounds):
                if number and clock.left() <= 0:
                    break
                for name in [*ready][number % len(ready) :] + [*ready][: number % len(ready)]:
                    run = play(bench, ready[name], hall, seconds)
                    runs.setdefault(name, []).append(run)
                    console.print(f"  {', '.join(line(hall, name, [run]))}", highlight=False, soft_wrap=True)
        finally:
            for running in ready.values():
                running.end()
        rows += [line(hall, name, runs[name]) for name in ready if name in runs]
    return rows
