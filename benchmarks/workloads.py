"""Defines the workloads of every server, and how far ahead castd has to be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Workload:
    """One workload: C{clients} reads at a time until C{transfers} of one file are done.

    @ivar size: octets of the file.
    @ivar loss: part of the packets that the load client drops, each way.
    @ivar marks: the least that castd's throughput divided by a peer's may be, by the peer's name; C{best-c} and
        C{best-python} stand for the fastest of their kind.
    @ivar memory: MiB of anonymous memory that castd may use, or C{None}.
    @ivar silent: no request may be sent twice.
    """

    name: str
    title: str
    clients: int
    transfers: int
    size: int = MIB
    blksize: int = 1468
    windowsize: int = 1
    loss: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)
    memory: float | None = None
    silent: bool = True

    def shortened(self, factor: int) -> Workload:
        """@return: the same work with a part of the transfers, at least one for each client."""
        return replace(self, transfers=max(self.clients, self.transfers // factor))

    def arguments(self, seed: int, transfers: int | None = None) -> list[str]:
        """@return: the load client's options; C{seed} decides which packets are lost."""
        asked = transfers or self.transfers
        options = {
            "blksize": self.blksize,
            "windowsize": self.windowsize,
            "clients": min(self.clients, asked),
            "transfers": asked,
            "loss": self.loss,
            "seed": seed,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]


CROWD = {"dnsmasq": 0.95, "atftpd": 1.6, "tftpd-hpa": 1.9, "best-python": 1.5}

WORKLOADS = (
    Workload("lockstep-1", "1 client, lockstep", 1, 16, marks={"best-c": 0.9, "best-python": 1.05}),
    Workload("lockstep-32", "32 clients, lockstep", 32, 96, marks=CROWD),
    Workload("lockstep-64", "64 clients, lockstep", 64, 128, marks=CROWD),
    Workload("lockstep-128", "128 clients, lockstep", 128, 128, marks=CROWD),
    Workload("lockstep-512", "512 clients, lockstep", 512, 512, 256 * KIB, marks={"dnsmasq": 0.95}, memory=64),
    Workload("window16-1", "1 client, window 16", 1, 64, windowsize=16, marks={"atftpd": 1.8}),
    Workload("window64-1", "1 client, window 64", 1, 128, windowsize=64, marks={"atftpd": 2.2}),
    Workload("window16-32", "32 clients, window 16", 32, 128, windowsize=16, marks={"atftpd": 3.3, "best-python": 3.9}),
    Workload(
        "storm", "storm: 2000 of 16 KiB, 64 at a time", 64, 2000, 16 * KIB, marks={"dnsmasq": 1.0, "best-python": 2.5}
    ),
    Workload("crowd", "crowd: 1000 of 16 KiB, all at once", 1000, 1000, 16 * KIB),
    Workload(
        "loss",
        "16 clients, 0.2 % lost each way",
        16,
        16,
        loss=0.002,
        marks={"best-c": 10.0, "best-python": 10.0},
        silent=False,
    ),
)
