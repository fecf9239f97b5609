"""Runs the load client against servers, with a CPU for each, and watches what others take of these CPUs meanwhile."""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from neighbours import Cpus, Disturbance
from rich.console import Console
from servers import Running, Server
from workloads import FILE, Workload

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
#: Seconds after which the load client gives a round up.
MOST = 45
#: The same when the time of the workload is over.
LEAST = 12
#: Says that this process is in a network namespace of its own already.
INSIDE = "CASTD_BENCH_INSIDE"

Sample = dict[str, Any]
"""What the load client printed about one run, and C{server_cpu} (seconds), C{memory} (MiB), C{mode} (C{warm}, C{poll},
C{sleep}), C{round}, what others took (C{others}, C{stolen}, seconds), how often the run was C{repeated} for that, and
whether it was C{disturbed} all the same."""

console = Console(stderr=True)
#: After so many runs in a row that stayed disturbed none is repeated, until one is calm: the machine is simply busy.
FUTILE = 4


class Clock:
    """
    The time that a run has left, given out in parts: what one does not use is for all that follow.
    """

    def __init__(self, seconds: float, whole: Clock | None = None) -> None:
        """
        @param whole: the clock that this one is a part of.
        """
        self._end, self._whole = time.monotonic() + seconds, whole

    @property
    def over(self) -> bool:
        """Whether the time of the whole is over, too."""
        return self.left() <= 0 and (self._whole is None or self._whole.left() <= 0)

    def left(self) -> float:
        """@return: seconds until the end."""
        return self._end - time.monotonic()

    def share(self, parts: int) -> Clock:
        """@return: a clock for the first of so many that are to come."""
        return Clock(max(0.0, self.left()) / parts, self)


def isolate() -> None:
    """Begin again in a network namespace of its own, where no other traffic is and all ports are free.

    @raise click.ClickException: a program is missing, or privileges are.
    """
    missing = [word for word in ("unshare", "ip", "taskset", "cc") if shutil.which(word) is None]
    if missing or os.geteuid() != 0:
        raise click.ClickException(f"needs root, and {', '.join(missing) or 'nothing else'}")
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    # in.tftpd knows no address on a machine that has none but the loopback's (AI_ADDRCONFIG).
    for words in ("link set lo multicast on up", "address add 10.255.255.1/32 dev lo", "route add 224.0.0.0/4 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended, too


def compiled(name: str, room: Path) -> Path:
    """@return: the program made from one of the C files beside this one."""
    program = room / name
    subprocess.run(["cc", "-O2", "-Wall", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return program


class Bench:
    """One run: a directory of files, the compiled load client, and the two CPUs that server and client get."""

    def __init__(self, room: Path, cpus: tuple[int, int]) -> None:
        self.room, self.root = room, room / "files"
        self.serverCpu, self.clientCpu = self.cpus = cpus
        self.root.mkdir()
        for directory in (room, self.root):
            directory.chmod(0o755)
        self.most: float = MOST
        self.futile = 0
        self.load = compiled("load", room)
        compiled("ceiling", room)
        os.sched_setaffinity(0, {self.clientCpu})

    def files(self, workload: Workload, number: int = 0) -> list[str]:
        """
        Write the files of a round; those of the round before that are of no use any more go.

        @return: their names; files of one name have the same octets in every run.
        """
        if not workload.fresh:
            return [self._file(workload.size, place) for place in range(workload.files)]
        for path in self.root.glob(f"{workload.name}-*"):
            path.unlink()
        return [self._file(workload.size, place, f"{workload.name}-{number}-") for place in range(workload.files)]

    def _file(self, size: int, place: int, front: str = "") -> str:
        path = self.root / f"{front}{size}-{place}.bin"
        if not path.exists():
            path.write_bytes(random.Random(f"{size} {place}").randbytes(size))
            path.chmod(0o644)
        return path.name

    def start(self, server: Server, workload: Workload) -> tuple[Running, Sample]:
        """Start a server and wait until it has served one file.

        @raise click.ClickException: with what it printed, when it does not serve.
        """
        running = Running(server, self.root, self.room, self.serverCpu, workload.kind == "group")
        name, deadline = self._file(workload.size, 0), time.monotonic() + 20
        words = [*workload.arguments(0, False, 1, loss=False), "--patience", "2"]
        while running.alive() and time.monotonic() < deadline:
            sample = self.ask(running, [name], words, f"{self.seed(server, 0)}9")
            if sample and not sample["failures"]:
                return running, sample
        running.end()
        raise click.ClickException(f"{server.name} does not serve:\n{running.log.read_text()[-2000:]}")

    def seed(self, server: Server, number: int) -> int:
        """@return: a number for names that are written: another one for each server and round."""
        return (number + 1) * 100_000 + server.port

    def command(self, server: Server, names: list[str], words: list[str]) -> list[str]:
        """@return: the words that start the load client."""
        client = ["taskset", "--cpu-list", str(self.clientCpu), str(self.load), HOST, str(server.port)]
        return [*client, str(self.root), ",".join(names), "--most", str(self.most), *words]

    def ask(
        self, running: Running, names: list[str], words: list[str], written: str = "", look: bool = False
    ) -> Sample:
        """Let the load client work once.

        @param written: a seed of its own for uploads; C{look}: at the server's memory meanwhile, which costs CPU.
        @return: what the client counted, with the server's CPU seconds and what others took; empty when it failed.
        """
        words = [*words, "--seed", written] if "--put" in words else words
        memory, harness = 0.0, time.process_time()
        before, began = Cpus.now(self.cpus), running.group.seconds()
        with subprocess.Popen(
            self.command(running.server, names, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            while look and client.poll() is None:
                looked = time.monotonic()
                memory = max(memory, running.group.memory())
                time.sleep(max(0.02, 5 * (time.monotonic() - looked)))
            said, complaint = client.communicate(timeout=MOST + 30)
        if client.returncode:
            console.print(f"  {running.server.name}: {complaint.strip()}", style="red", markup=False)
            return {}
        sample: Sample = json.loads(said)
        cpu = running.group.seconds() - began
        own = cpu + sample["client_cpu"] + time.process_time() - harness
        noise = Disturbance.between(before, Cpus.now(self.cpus), own, sample["seconds"])
        sample |= {"server_cpu": cpu, "memory": memory, "others": noise.others, "stolen": noise.stolen}
        sample |= {"disturbed": noise.serious, "complaint": complaint.strip()}
        return sample

    def checkUploads(self, names: list[str], seed: str) -> int:
        """
        Compare what was written with what was sent, and remove it.

        @return: how many are not the same.
        """
        wrong = 0
        for path in self.root.glob(f"*.{seed}.*"):
            source = self.root / path.name.removesuffix(f".{seed}.{path.name.rpartition('.')[2]}")
            wrong += not filecmp.cmp(path, source, shallow=False)
            path.unlink()
        return wrong

    def round(self, running: Running, workload: Workload, number: int, mode: str, again: int) -> Sample:
        """Do a workload once with one server; again, up to C{again} times, if others disturbed it.

        @param mode: C{warm}, C{poll} or C{sleep}.
        @return: the sample that was disturbed least.
        """
        best: Sample = {}
        for tries in range(again + 1):
            sample = self._once(running, workload, number, mode, tries)
            if not best or _noise(sample) < _noise(best):
                best = sample
            best["repeated"] = tries
            if not sample.get("disturbed"):
                break
        return best

    def _once(self, running: Running, workload: Workload, number: int, mode: str, tries: int) -> Sample:
        warm = mode == "warm"
        # A repetition of names that nobody has asked for needs new ones.
        names = self.files(workload, number * 10 + tries)
        words = workload.arguments(number, mode == "poll", workload.warm or None if warm else None, loss=not warm)
        seed = str(self.seed(running.server, number * 10 + tries))
        sample = self.ask(running, names, words, seed, look=warm)
        if not sample:
            raise click.ClickException(f"the load client failed against {running.server.name}")
        if workload.kind == "put":
            sample["failures"] += self.checkUploads(names, seed)
        if sample["complaint"]:
            console.print(f"  {running.server.name}: {sample['complaint']}", style="yellow", markup=False)
        return sample | {"mode": mode, "round": number}

    def compare(
        self, workload: Workload, servers: list[Server], rounds: tuple[int, int], clock: Clock
    ) -> dict[str, list[Sample]]:
        """Every server in turn, after one round that warms up and looks at memory.

        @param rounds: the most with a client that polls, and with one that sleeps.
        @param clock: when it has no time left there is no further round, but one of each.
        @return: for each server its samples, that of the first round first; only one for a server without windows
            where the workload wants them.  Nothing at all: the time was over before the first round.
        """
        ready: dict[str, Running] = {}
        samples: dict[str, list[Sample]] = {}
        try:
            for server in servers:
                ready[server.name], first = self.start(server, workload)
                if first["window"] < workload.windowsize:
                    samples[server.name] = [first | {"mode": "warm", "round": 0}]
                    ready.pop(server.name).end()
            names, done = list(ready), {"warm": 0, "poll": 0, "sleep": 0}
            for number, mode in enumerate(order(min(rounds[0], workload.most), min(rounds[1], workload.sleeps))):
                if clock.left() <= 0 and (done[mode] or clock.over):
                    continue
                done[mode] += 1
                turn = number % len(names)  # no server is always the first
                for name in names[turn:] + names[:turn]:
                    self.most = min(MOST, max(LEAST, clock.left()))
                    again = 2 if mode != "warm" and clock.left() > 0 and self.futile < FUTILE else 0
                    sample = self.round(ready[name], workload, number, mode, again)
                    self.futile = self.futile + 1 if sample["disturbed"] else 0
                    samples.setdefault(name, []).append(sample)
                    tell(workload, name, sample)
        finally:
            for running in ready.values():
                running.end()
        if len(samples) < len(servers):
            console.print(f"{workload.name}: left out, the time was over before its first round", style="red")
            return {}
        return {server.name: samples[server.name] for server in servers}


def order(polls: int, sleeps: int) -> list[str]:
    """@return: the modes of the rounds: one that warms up, then those that sleep among those that poll."""
    modes = ["poll", "sleep"] * min(polls, sleeps)
    return ["warm", *modes, *["poll"] * (polls - sleeps), *["sleep"] * (sleeps - polls)]


def _noise(sample: Sample) -> float:
    return float(sample["others"] + sample["stolen"])


def tell(workload: Workload, name: str, sample: Sample) -> None:
    """Print one line about a run."""
    rate = sample["octets"] / sample["seconds"] / 2**20
    done = sample["ended"] - sample["failures"]
    cost = sample["server_cpu"] / max(1.0, workload.units(sample["blocks"], done)) * 1e6
    notes = f"{rate:.1f} MiB/s, {cost:.2f} µs a {'file' if workload.unit == FILE else 'block'}"
    if sample["repeated"]:
        notes += f", others disturbed it: repeated {sample['repeated']} times"
    if sample["disturbed"]:
        notes += f", [yellow]disturbed[/yellow] ({_noise(sample):.2f} s of others)"
    console.print(
        f"  {workload.name} {sample['mode']} {sample['round']} {name}: {notes}", highlight=False, soft_wrap=True
    )
