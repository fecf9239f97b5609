"""Measures a hall of boot loaders beside the peers: C{sudo python benchmarks/loaders.py [--machines 200] [--names 10]}.

Each machine has an address of its own.  It fetches a file (the boot loader), asks for names that do not exist, as
PXELINUX and GRUB look for their configuration, each as soon as the one before was refused, and then fetches the file
again.  Who is not answered asks again, when PXELINUX does.  castd has its default limits for ERRORs;
castd-errors what docs/sizing.md asks for, ten a second for each machine.
"""

from __future__ import annotations

import select
import socket
import tempfile
import time
from pathlib import Path
from statistics import median

import click
from bench import Bench, isolate
from figures import BY_NAME
from rich.console import Console
from rich.table import Table
from servers import SERVERS, castd

#: When PXELINUX repeats a packet that was not answered: ticks of 1/18.2 s since the packet before (its tftp.c).
TICKS = (2, 2, 3, 3, 4, 5, 6, 7, 9, 10, 12, 15, 18, 21, 26, 31, 37, 44, 53, 64, 77, 92, 110, 132)
TICK = 1 / 18.2
#: The options of PXELINUX.
ASKED = b"\0octet\0tsize\0" + b"0\0blksize\0" + b"1408\0"
BLKSIZE = 1408
ERROR, OACK, DATA = 5, 6, 3


class Machine:
    """
    One boot loader.

    @ivar step: what it asks for: 0 is the boot loader, then come names that do not exist, and the file once more.
    @ivar done: seconds until it had everything; L{None}: it has not.
    @ivar repeated: how often it has asked for something again.
    """

    def __init__(self, hall: Hall, number: int) -> None:
        self.hall, self.number = hall, number
        self.host = f"127.1.{number // 250}.{number % 250 + 1}"
        self.step = self.repeated = self.tries = 0
        self.done: float | None = None
        self.last: tuple[bytes, tuple[str, int]] = (b"", ("", 0))
        self.due = 0.0
        self.port: socket.socket | None = None
        self.ask()

    def ask(self) -> None:
        """Ask for the next name, from a new port."""
        if self.port is not None:
            self.hall.forget(self.port)
        self.port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.port.bind((self.host, 0))
        self.hall.watch(self.port, self)
        missing = 0 < self.step <= self.hall.names
        name = f"pxelinux.cfg/{self.number}-{self.step}" if missing else self.hall.file
        self.say(b"\0\1" + name.encode() + ASKED, self.hall.server)

    def say(self, datagram: bytes, address: tuple[str, int]) -> None:
        self.last, self.tries = (datagram, address), 0
        self._send()

    def _send(self) -> None:
        assert self.port is not None
        self.port.sendto(*self.last)
        self.due = time.monotonic() + TICKS[min(self.tries, len(TICKS) - 1)] * TICK

    def sayAgain(self) -> None:
        """Repeat what was not answered."""
        self.tries += 1
        self.repeated += 1
        self._send()

    def hear(self) -> None:
        """Receive one datagram."""
        assert self.port is not None
        datagram, source = self.port.recvfrom(2048)
        if datagram[1] == OACK:
            self.say(b"\0\4\0\0", source)
        elif datagram[1] == DATA:
            self.say(b"\0\4" + datagram[2:4], source)
        if datagram[1] == ERROR or (datagram[1] == DATA and len(datagram) < BLKSIZE + 4):
            self.step += 1
            if self.step > self.hall.names + 1:
                self.done = time.monotonic() - self.hall.began
                self.hall.forget(self.port)
            else:
                self.ask()


class Hall:
    """All machines, switched on together."""

    def __init__(self, port: int, file: str, machines: int, names: int) -> None:
        self.server, self.file, self.names = ("127.0.0.1", port), file, names
        self._set = select.epoll()
        self._heard: dict[int, Machine] = {}
        self.began = time.monotonic()
        self.machines = [Machine(self, number) for number in range(machines)]

    def watch(self, port: socket.socket, machine: Machine) -> None:
        self._heard[port.fileno()] = machine
        self._set.register(port.fileno(), select.EPOLLIN)

    def forget(self, port: socket.socket) -> None:
        del self._heard[port.fileno()]
        port.close()

    def play(self, most: float) -> tuple[float, float, int]:
        """@return: seconds until half of them and all had everything, at most C{most}; requests and ACKs repeated."""
        while self._heard and time.monotonic() - self.began < most:
            for fd, _ in self._set.poll(0.005):
                if fd in self._heard:
                    self._heard[fd].hear()
            now = time.monotonic()
            for machine in [each for each in self._heard.values() if now >= each.due]:
                machine.sayAgain()
        done = sorted(most if each.done is None else each.done for each in self.machines)
        return median(done), done[-1], sum(each.repeated for each in self.machines)


@click.command()
@click.option("--machines", default=200, show_default=True, help="That are switched on together.")
@click.option("--names", default=10, show_default=True, help="That each asks for in vain.")
@click.option("--rounds", default=5, show_default=True, help="The servers take turns.")
@click.option("--most", default=60.0, show_default=True, help="Seconds after which a round is given up.")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Another checkout: its castd takes part as castd-beside.",
)
def main(machines: int, names: int, rounds: int, most: float, beside: Path | None) -> None:
    """Print how long the hall takes with each server, and how often machines had to ask again."""
    isolate()
    console, workload = Console(), BY_NAME["storm"]
    servers = [each for each in SERVERS if each.present() and each.name in ("castd", "dnsmasq", "atftpd", "tftp")]
    servers.append(castd("castd-errors", 7077, limits=f", errors: {10 * machines}/s"))
    if beside is not None:
        servers.append(castd("castd-beside", 7079, str(beside.resolve())))
    found: dict[str, list[tuple[float, float, int]]] = {each.name: [] for each in servers}
    with tempfile.TemporaryDirectory(prefix="castd-loaders-") as folder:
        bench = Bench(Path(folder), (0, 1))
        for _ in range(rounds):
            for server in servers:
                running, _ = bench.start(server, workload)
                try:
                    found[server.name].append(Hall(server.port, bench.files(workload)[0], machines, names).play(most))
                finally:
                    running.end()
    table = Table(title=f"{machines} boot loaders, {names} names that do not exist, two files of 16 KiB")
    for head in ("server", "half: s", "all: s", "least", "greatest", "asked again"):
        table.add_column(head, justify="left" if head == "server" else "right")
    for name, runs in found.items():
        halves, all_, again = zip(*runs, strict=True)
        cells = [median(halves), median(all_), min(all_), max(all_)]
        table.add_row(name, *(f"{each:.2f}" for each in cells), f"{median(again):.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
