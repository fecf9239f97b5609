"""
Measures groups in network namespaces: what clients of RFC 2090 and SLAM cost at the server's wire, castd and atftpd in
one run; and BusyBox, alone and with loss.

    sudo .venv/bin/python benchmarks/groups.py --runs 10
    sudo .venv/bin/python benchmarks/groups.py --only loss-1 --server castd

Wire octets are those of the server's interface, frames and all, as the switch counts them.  With loss, requests and
first answers are spared unless C{--spare-nothing} is given: an atftp whose own was lost asks again after five seconds,
when its group may be over; repeated requests are counted apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.support.jobs import eventually  # noqa: E402
from tests.support.lab import wires  # noqa: E402
from tests.support.lab.castd import (  # noqa: E402
    Server,
    Shelf,
    listening,
)
from tests.support.lab.clients import SERVER, Transfer, atftp, busybox  # noqa: E402
from tests.support.lab.hall import Hall, Host, sweep  # noqa: E402
from tests.support.lab.wires import SEED, lossy, nft  # noqa: E402

ASKED = ("multicast", "blksize 1428")


@dataclass(frozen=True)
class Work:
    """
    One thing to measure.

    @ivar pause: seconds from one client's start to the next one's.
    @ivar loss: per cent, each way.
    @ivar kill: the master is killed in mid-transfer.
    @ivar mark: (what of the sample, at most).
    @ivar client: C{"atftp"}; C{"busybox"}; C{"castd get"}, by SLAM; C{"iPXE"}, by SLAM, a client that shares no code
        with castd.  atftpd has no SLAM.
    """

    clients: int
    size: int
    pause: float = 0.0
    loss: float = 0.0
    kill: bool = False
    options: tuple[str, ...] = ASKED
    mark: tuple[str, float] | None = None
    patience: float = 60.0
    client: str = "atftp"

    @property
    def slam(self) -> bool:
        """Whether it is served by SLAM."""
        return self.client in ("castd get", "iPXE")


MIB = 1 << 20
#: A client that has sent more packets than this since the master's death is the new master; a few may be IGMP or ARP.
SPEAKS = 8
WORK = {
    "once": Work(1, 8 * MIB, mark=("wire", 1.05)),
    "four": Work(4, 8 * MIB, mark=("wire", 1.05)),
    "at-once": Work(16, 8 * MIB, mark=("wire", 1.05)),
    "joining": Work(16, 8 * MIB, pause=0.1, mark=("wire", 1.1)),
    "loss-1": Work(16, 8 * MIB, loss=1, mark=("wire", 1.3)),
    "loss-5": Work(16, 8 * MIB, loss=5, mark=("wire", 1.9)),
    "hall-loss-1": Work(16, MIB, loss=1, mark=("wire", 1.3)),
    "joining-loss-1": Work(16, 8 * MIB, pause=0.1, loss=1),
    "joining-loss-5": Work(16, 8 * MIB, pause=0.1, loss=5),
    "small-loss-1": Work(1, MIB, loss=1, mark=("seconds", 2.0)),
    "small-timeout": Work(1, MIB, loss=1, options=(*ASKED, "timeout 1"), mark=("seconds", 2.0)),
    "whole": Work(4, 32 * MIB),
    "killed": Work(4, 32 * MIB, kill=True, mark=("delay", 1.5)),
    "busybox-loss-5": Work(1, MIB, loss=5, options=("-b1428",), client="busybox"),
    "slam": Work(16, MIB, mark=("wire", 1.05), client="iPXE"),
    "slam-get": Work(16, 8 * MIB, mark=("wire", 1.05), client="castd get"),
    "slam-get-loss-5": Work(16, 8 * MIB, loss=5, mark=("own", 2.0), client="castd get"),
}
SLAM_CLIENT = HERE.parent / "tests" / "support" / "clients" / "slam_client.py"
#: Where files of a size are served by SLAM: the ports of lists, and of the groups.
SLAM_PORTS = {MIB: 10000, 8 * MIB: 10001}
#: castd's command, which begins at the instant that a file tells: until sixteen have started, seconds go by.
AT_ONCE = """
import pathlib, sys, time
start = pathlib.Path(sys.argv.pop(1))
from castd.cli.main import main
import castd.client.client, twisted.internet.reactor
print("started", flush=True)
while not start.exists():
    time.sleep(0.02)
time.sleep(max(0.0, float(start.read_text()) - time.time()))
main()
"""
#: Seconds from the word to begin until they do.
BEGIN_IN = 0.5


class CastdTransfer(Transfer):
    """castd get by SLAM, which begins when it is told to."""

    def __init__(self, host: Host, port: int) -> None:
        local = host.folder / "copy"
        self._start = host.folder / "start"
        url = f"slam://{SERVER}:{port}/239.255.1.1:{port}"
        words = [sys.executable, "-c", AT_ONCE, str(self._start), "get", "--json", "-o", str(local), url]
        super().__init__(host.start(words, cwd=HERE.parent), local)

    def begin(self, instant: float) -> None:
        """Let it begin at an instant of the wall clock."""
        new = self._start.with_suffix(".new")
        new.write_text(str(instant))
        new.rename(self._start)

    def seconds(self) -> float:
        """Return the seconds that it has taken by its own clock; 0: it tells none."""
        try:
            return float(json.loads(self.job.finish(1).text.splitlines()[-1])["seconds"])
        except (IndexError, ValueError, KeyError):
            return 0.0


class SlamTransfer(Transfer):
    """A client of SLAM at work, which tells the digest of what it received, and writes no file."""

    def __init__(self, host: Host, port: int) -> None:
        words = [sys.executable, str(SLAM_CLIENT), "--kind", "ipxe", "--server", f"{SERVER}:{port}"]
        more = ["--group", f"239.255.1.1:{port}", "--interface", host.addresses[0], "--limit", "60"]
        super().__init__(host.start([*words, *more]), host.folder / "none")

    def digest(self) -> str:
        """Return the SHA-256 of what was received; empty if it told none."""
        lines = self.job.finish(1).text.splitlines()
        try:
            return str(json.loads(lines[-1])["sha256"])
        except (IndexError, ValueError, KeyError):
            return ""


@dataclass
class Sample:
    """
    One run.

    @ivar wire: octets at the server's wire for each octet of the file.
    @ivar seconds: until the last one was done.
    @ivar done: clients with the right file; C{late}: requests that had to be repeated.
    @ivar delay: seconds from the death of the master to the first word of the next one.
    @ivar own: seconds of the slowest by the clients' own clocks, from request to last octet; 0: they tell none.
    @ivar gathered: seconds that castd waited for others, from the first request to the first block.
    """

    wire: float
    seconds: float
    done: int
    late: int
    delay: float = 0.0
    own: float = 0.0
    gathered: float = 0.0


@contextlib.contextmanager
def counting(hall: Hall, ports: list[str]) -> Iterator[Callable[[], int]]:
    """Count the read requests that these hosts send, lost ones too.  -> what tells how many there were."""
    chains = [
        f"chain of_{port} {{\n type filter hook ingress device {port} priority -10;\n"
        " meta l4proto udp @th,64,16 1 counter\n}"
        for port in ports
    ]
    nft(hall, "-f", "-", rules="table netdev requests {\n" + "\n".join(chains) + "\n}\n")

    def count() -> int:
        listed = json.loads(nft(hall, "-j", "list", "table", "netdev", "requests"))["nftables"]
        expressions = [each for item in listed if "rule" in item for each in item["rule"]["expr"]]
        return sum(each["counter"]["packets"] for each in expressions if "counter" in each)

    try:
        yield count
    finally:
        nft(hall, "delete", "table", "netdev", "requests")


class Bench:
    """The network, its files, and one server at a time."""

    def __init__(self, hall: Hall, shelf: Shelf, spare: bool) -> None:
        self.hall, self.shelf = hall, shelf
        self.match = "@th,64,16 != {1, 6}" if spare else ""
        self.server = hall.host("server", SERVER)
        self._events = hall.folder / "events.json"

    @contextlib.contextmanager
    def castd(self, tree: Path = HERE.parent) -> Iterator[None]:
        group = {"port": 69, "interface": SERVER, "groups": "239.255.32.0/24"}
        plain = {"port": 69, "interface": SERVER}
        service = {
            "castd": 1,
            "content": [{"directory": {"path": str(self.shelf.root)}}],
            "access": [{"allow": "any"}],
            "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": "1 s"},
            "logging": {"json": str(self._events)},
            "transports": {
                "multicast": group,
                "tftp": plain,
                **{f"slam-{port}": self._slam(size, port) for size, port in SLAM_PORTS.items()},
            },
        }
        running = Server(self.server, service, tree=tree)
        try:
            yield
        finally:
            running.stop()

    def _slam(self, size: int, port: int) -> dict[str, object]:
        """Return the options of the transport that serves the file of this size by SLAM."""
        group = f"239.255.1.1:{port}"
        return {"use": "slam", "port": port, "file": self.shelf.sized(size), "interface": SERVER, "group": group}

    @contextlib.contextmanager
    def atftpd(self) -> Iterator[None]:
        words = "--daemon --no-fork --logfile - --user root.root --port 69 --mcast-addr 239.255.33.0-255"
        program = shutil.which("atftpd") or "/usr/sbin/atftpd"
        options = [*words.split(), "--mcast-port", "1758", "--bind-address", SERVER, str(self.shelf.root)]
        job = self.server.start([program, *options])
        eventually(lambda: (SERVER, 69) in listening(job.pid), "atftpd to listen", 10)
        try:
            yield
        finally:
            job.end()

    def gathered(self) -> float:
        """Return what castd, which has ended, says of the first block: seconds after the first request; 0: nothing."""
        if not self._events.exists():
            return 0.0
        events = [json.loads(line) for line in self._events.read_text().splitlines()]
        self._events.unlink()
        return max((event.get("first_block", 0.0) for event in events), default=0.0)

    def run(self, work: Work) -> Sample:
        """
        Do one run: start all clients, and wait until each has ended or is given up.
        """
        name = self.shelf.sized(work.size)
        clients = self.hall.clients(work.clients)
        names = [client.name for client in clients]
        with contextlib.ExitStack() as weather:
            requests = weather.enter_context(counting(self.hall, names))
            if work.loss:
                weather.enter_context(lossy(self.hall, names, work.loss, match=self.match))
            sample = self._go(work, name, clients)
            sample.late = 0 if work.slam else requests() - work.clients
        return sample

    def _go(self, work: Work, name: str, clients: list[Host]) -> Sample:
        before = self.server.counters()
        calm = [client.counters() for client in clients]
        begin = time.monotonic()
        transfers = []
        for index, client in enumerate(clients):
            time.sleep(max(0.0, begin + index * work.pause - time.monotonic()))
            transfers.append(self._start(work, name, client))
        if work.client == "castd get":
            begin = self._beginTogether(transfers)
        delay = 0.0
        if work.kill:
            master = self._master(clients, transfers, calm)
            others = [client for client, each in zip(clients, transfers, strict=True) if each is not master]
            calm = [client.counters() for client in others]
            dead = time.monotonic()
            master.job.end(signal.SIGKILL)
            eventually(
                lambda: any(
                    client.counters().since(then).sent > SPEAKS for client, then in zip(others, calm, strict=True)
                ),
                "another master to acknowledge",
                60,
                every=0.005,
            )
            delay = time.monotonic() - dead
            transfers = [transfer for transfer in transfers if transfer is not master]
        ended = self._ends(transfers, begin + work.patience)
        octets = self.server.counters().since(before).sentOctets
        right = [transfer for transfer in transfers if self._right(transfer, name)]
        own = max((transfer.seconds() for transfer in transfers if isinstance(transfer, CastdTransfer)), default=0.0)
        for transfer in transfers:
            transfer.local.unlink(missing_ok=True)
            (transfer.local.parent / "start").unlink(missing_ok=True)
        return Sample(octets / work.size, max(ended.values()) - begin, len(right), 0, delay, own)

    @staticmethod
    def _start(work: Work, name: str, client: Host) -> Transfer:
        if work.client == "castd get":
            return CastdTransfer(client, SLAM_PORTS[work.size])
        if work.client == "iPXE":
            return SlamTransfer(client, SLAM_PORTS[work.size])
        return (busybox if work.client == "busybox" else atftp).get(client, name, *work.options)

    @staticmethod
    def _beginTogether(transfers: list[Transfer]) -> float:
        """Wait until all have started, and let them begin at the same instant.  -> that, by the monotonic clock."""
        for transfer in transfers:
            transfer.job.until("started", 60)
        instant = time.time() + BEGIN_IN
        for transfer in transfers:
            if isinstance(transfer, CastdTransfer):
                transfer.begin(instant)
        return time.monotonic() + instant - time.time()

    def _right(self, transfer: Transfer, name: str) -> bool:
        if isinstance(transfer, SlamTransfer):
            return transfer.digest() == hashlib.sha256(self.shelf[name]).hexdigest()
        return transfer.local.exists() and transfer.local.read_bytes() == self.shelf[name]

    @staticmethod
    def _ends(transfers: list[Transfer], patience: float) -> dict[Transfer, float]:
        """Return when each transfer ended, by the monotonic clock; one that does not end is killed."""
        ended: dict[Transfer, float] = {}
        while len(ended) < len(transfers):
            now = time.monotonic()
            for transfer in transfers:
                if transfer in ended:
                    continue
                if now > patience:
                    transfer.job.end(signal.SIGKILL)
                if transfer.job.process.poll() is not None:
                    ended[transfer] = now
            time.sleep(0.01)
        return ended

    def _master(self, clients: list[Host], transfers: list[Transfer], calm: list[Any]) -> Transfer:
        """Return the transfer that has acknowledged a thousand blocks."""

        def busy() -> Transfer | None:
            sent = [client.counters().since(then).sent for client, then in zip(clients, calm, strict=True)]
            return transfers[sent.index(max(sent))] if max(sent) > 1000 else None

        return eventually(busy, "a master to acknowledge", 30, every=0.005)


def told(servers: dict[str, list[Sample]]) -> Iterator[tuple[str, list[Sample]]]:
    """Return the runs with each server; and, if some had a request that was lost, once more those that had none."""
    for server, runs in servers.items():
        yield server, runs
        spared = [run for run in runs if not run.late]
        if 0 < len(spared) < len(runs):
            yield f"{server}, {len(spared)} with none asked again", spared


def printTable(samples: dict[str, dict[str, list[Sample]]], console: Console) -> None:
    """Print the table: medians, and the worst."""
    table = Table(title="Clients of RFC 2090 are atftp's; wire octets for each octet of the file")
    for head in (
        "work",
        "server",
        "wire",
        "worst",
        "seconds",
        "worst",
        "gathered",
        "own clocks",
        "done",
        "asked again",
        "mark",
    ):
        table.add_column(head)
    for name, servers in samples.items():
        work = WORK[name]
        for server, runs in told(servers):
            wires, seconds = [run.wire for run in runs], [run.seconds for run in runs]
            expected = (work.clients - work.kill) * len(runs)
            mark = ""
            if work.mark is not None and server.startswith("castd"):
                value = median(getattr(run, work.mark[0]) for run in runs)
                verdict = "reached" if value <= work.mark[1] else "MISSED"
                mark = f"{work.mark[0]} {value:.3g} ≤ {work.mark[1]}: {verdict}"
            table.add_row(
                name,
                server,
                f"{median(wires):.3f}",
                f"{max(wires):.3f}",
                f"{median(seconds):.2f}",
                f"{max(seconds):.2f}",
                f"{median(run.gathered for run in runs):.2f}" if server.startswith("castd") else "",
                f"{median(run.own for run in runs):.2f}" if work.client == "castd get" else "",
                f"{sum(run.done for run in runs)}/{expected}",
                str(sum(run.late for run in runs)),
                mark,
            )
    console.print(table)


@click.command()
@click.option("--runs", default=3, show_default=True, help="of each work with each server")
@click.option("--only", multiple=True, type=click.Choice(sorted(WORK)), help="work to do; all without it")
@click.option("--server", "servers", multiple=True, type=click.Choice(["castd", "atftpd"]), help="both without it")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="another checkout, whose castd is measured beside this one's",
)
@click.option("--spare-nothing", is_flag=True, help="lose requests and first answers, too")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="where to write every run")
def main(
    runs: int,
    only: tuple[str, ...],
    servers: tuple[str, ...],
    beside: Path | None,
    spare_nothing: bool,
    out: Path | None,
) -> None:
    """Measure castd's groups beside atftpd's."""
    console = Console(width=150 if not sys.stdout.isatty() else None)
    folder = Path(tempfile.mkdtemp(prefix="castd-groups-"))
    folder.chmod(0o755)
    samples: dict[str, dict[str, list[Sample]]] = {}
    try:
        (folder / "shelf").mkdir()
        sweep()
        with Hall(folder) as hall:
            bench = Bench(hall, Shelf(folder / "shelf"), not spare_nothing)
            known: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
                "castd": bench.castd,
                "atftpd": bench.atftpd,
            }
            peers = {server: known[server] for server in servers or known}
            if beside is not None:
                peers["castd-beside"] = lambda: bench.castd(beside.resolve())
            for name in only or WORK:
                # In turn, so that a machine that grows slower does so for all servers.
                for run in range(runs):
                    wires.SEED = f"{SEED} {run}"  # other losses in each run, the same for all servers
                    for server, started in peers.items():
                        if WORK[name].slam and server == "atftpd":
                            continue
                        with started():
                            sample = bench.run(WORK[name])
                        sample.gathered = bench.gathered()
                        samples.setdefault(name, {}).setdefault(server, []).append(sample)
                        console.print(f"{name}, {server}: {sample}", soft_wrap=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    printTable(samples, console)
    if out is not None:
        plain = {
            name: {each: [vars(run) for run in found] for each, found in by.items()} for name, by in samples.items()
        }
        out.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
