"""Defines the workloads of every server, and the marks that castd has to reach in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marks import Mark

KIB = 1024
MIB = 1024 * KIB
#: What a second of CPU is divided by: blocks that arrived, files that arrived, blocks that were sent to a group.
BLOCK, FILE, SENT = "block", "file", "block of a group"


@dataclass(frozen=True)
class Workload:
    """One workload: C{clients} transfers at a time until C{transfers} are done.

    @ivar kind: C{read}, C{put} (uploads) or C{group} (RFC 2090).
    @ivar size: octets of each file; C{files}: different names that are asked for in turn.
    @ivar fresh: each round has names that nobody has asked for before.
    @ivar loss: part of the packets that the load client drops, each way.
    @ivar unit: what CPU time is divided by.
    @ivar marks: what castd has to show.
    @ivar limit: what limits castd here, in words, beside what the CPU times say.
    @ivar warm: transfers of the round that warms up, in which nothing is lost; all if it is 0.
    @ivar most: timed rounds, where this is work that takes long; C{sleeps}: how many of them with a client that sleeps.
    """

    name: str
    title: str
    clients: int
    transfers: int
    size: int = MIB
    kind: str = "read"
    files: int = 1
    fresh: bool = False
    blksize: int = 1468
    windowsize: int = 1
    loss: float = 0.0
    unit: str = BLOCK
    marks: tuple[Mark, ...] = ()
    limit: str = ""
    warm: int = 0
    most: int = 99
    sleeps: int = 3

    def shortened(self, factor: int) -> Workload:
        """@return: the same work with a part of the transfers, at least one for each client."""
        return replace(self, transfers=max(self.clients, self.transfers // factor))

    def arguments(self, seed: int, poll: bool, transfers: int | None = None, loss: bool = True) -> list[str]:
        """@return: the load client's options; C{seed} decides which packets are lost."""
        asked = transfers or self.transfers
        options = {
            "blksize": self.blksize,
            "windowsize": self.windowsize,
            "clients": min(self.clients, asked),
            "transfers": asked,
            "loss": self.loss if loss else 0.0,
            "seed": seed,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        flags = {"--poll": poll, "--put": self.kind == "put", "--multicast": self.kind == "group"}
        return [*words, *(flag for flag, wanted in flags.items() if wanted)]

    def units(self, blocks: int, done: int) -> float:
        """
        @param blocks: that the clients received or sent; C{done}: transfers that ended well.
        @return: by what CPU time is divided.
        """
        if self.unit == FILE:
            return done
        return blocks * self.files / self.transfers if self.unit == SENT else blocks


def than(dnsmasq: float, native: float, atftpd: float, python: float) -> tuple[Mark, ...]:
    """@return: the marks of many clients in lockstep."""
    return (
        Mark("throughput", dnsmasq, native, "dnsmasq"),
        Mark("throughput", atftpd, None, "atftpd"),
        Mark("throughput", python, None, "best-python"),
    )


STORM = (Mark("throughput", 0.6, 0.72, "dnsmasq"), Mark("throughput", 2.8, None, "best-python"))

WORKLOADS = (
    Workload(
        "lockstep-1",
        "1 client, lockstep",
        1,
        16,
        marks=(Mark("throughput", 1.0, 1.15, "best-c"),),
        limit="Each side waits for the other: one block in a round trip, two processes to wake up.",
    ),
    Workload(
        "lockstep-64",
        "64 clients, lockstep",
        64,
        128,
        marks=than(0.77, 0.93, 1.5, 1.7),
        limit="Two system calls for each block, and one call of Python without the native loop.",
    ),
    Workload(
        "lockstep-128",
        "128 clients, lockstep",
        128,
        128,
        marks=than(0.77, 0.93, 1.5, 1.7),
        limit="As with 64.",
    ),
    Workload(
        "lockstep-512",
        "512 clients, lockstep",
        512,
        512,
        256 * KIB,
        marks=(Mark("throughput", 0.83, 1.1, "dnsmasq"), Mark("repeats", 0), Mark("memory", 64)),
        limit="512 requests in one instant, then as with 64; who loses requests waits for their repetition.",
    ),
    Workload(
        "window16-1",
        "1 client, window 16",
        1,
        64,
        windowsize=16,
        marks=(Mark("throughput", 1.08, 1.2, "atftpd"),),
        limit="A window in a round trip: the kernel copies it twice, castd lays each chunk out once.",
    ),
    Workload(
        "window64-1",
        "1 client, window 64",
        1,
        128,
        windowsize=64,
        marks=(Mark("throughput", 1.1, 1.4, "atftpd"),),
        limit="The kernel's copying, and the reading and laying out of chunks that nobody else asks for.",
    ),
    Workload(
        "window16-32",
        "32 clients, window 16",
        32,
        128,
        windowsize=16,
        marks=(Mark("throughput", 2.5, 2.6, "atftpd"), Mark("throughput", 3.7, None, "best-python")),
        limit="The load client, which gets each datagram by itself, is nearly as busy as the server.",
    ),
    Workload(
        "storm",
        "storm: 2000 of 16 KiB, 64 at a time, one name",
        64,
        2000,
        16 * KIB,
        unit=FILE,
        marks=STORM,
        limit="Beginning and end of a transfer: a socket, its port, the request, the rules, the event.",
    ),
    Workload(
        "storm-1000",
        "storm: the same, 1,000 names in turn",
        64,
        2000,
        16 * KIB,
        files=1000,
        unit=FILE,
        marks=STORM,
        limit="As above, and a file to open for each that is no longer at hand.",
    ),
    Workload(
        "once",
        "1,000 of 16 KiB, each name asked once",
        64,
        1000,
        16 * KIB,
        files=1000,
        fresh=True,
        unit=FILE,
        marks=(Mark("cost", 1.05, None, "castd-beside"),),  # no dearer; the twentieth is for noise
        limit="Nothing that was learned of a name is of use again: look-up, opening, reading, laying out.",
    ),
    Workload(
        "crowd",
        "crowd: 1000 of 16 KiB, all at once",
        1000,
        1000,
        16 * KIB,
        unit=FILE,
        marks=(Mark("throughput", 9.0, None, "every"),),
        limit="Requests that find the server's socket full are lost, and repeated after a second or more.",
        warm=64,
        most=3,
        sleeps=1,
    ),
    Workload(
        "loss",
        "16 clients, 0.2 % lost each way",
        16,
        16,
        512 * KIB,
        loss=0.002,
        marks=(Mark("throughput", 15.0, None, "every"), Mark("failures", 0)),
        limit="The time until a lost packet is repeated.",
        most=3,
        sleeps=1,
    ),
    Workload(
        "groups-16",
        "16 groups at once, 2 receivers each, 2 MiB",
        32,
        32,
        2 * MIB,
        kind="group",
        files=16,
        blksize=1428,
        unit=SENT,
        # The second is the first, divided by what atftpd took where it was set: it holds on slower machines, too.
        marks=(Mark("cpu", 7.0, 5.0), Mark("cost", 1.17, 0.83, "atftpd")),
        limit="A block is sent when the master has acknowledged the one before. castd gathers first (0.2 s).",
    ),
    Workload(
        "group-1",
        "1 group of 16 receivers, 8 MiB",
        16,
        16,
        8 * MIB,
        kind="group",
        blksize=1428,
        unit=SENT,
        limit="As above, with one master; the load client receives each block sixteen times.",
    ),
    Workload(
        "upload",
        "16 clients write 1 MiB each, lockstep",
        16,
        32,
        kind="put",
        limit="Writing, and making it safe: castd has a file on the disk before it has its name.",
    ),
)
