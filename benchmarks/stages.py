"""Names what a file, a block and a block of a group cost, stage by stage: C{python benchmarks/stages.py [--docs]}.

    sudo .venv/bin/python benchmarks/stages.py          # three minutes
    sudo .venv/bin/python benchmarks/stages.py --docs   # writes the tables into docs/profile.md

castd without and with its native loop, and the ceiling beside them, take turns. First rounds without a sampler say what
one unit costs. Then castd and the ceiling note where they are for each tick of their CPU time (C{sampler.c},
C{sampled.py}), and each stage gets its part of those microseconds. A stage is found by the innermost function of castd
that belongs to one, and sends and fetched events by the call of the system. What no stage names is told: a new module
belongs to none, so it cannot be forgotten.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import click
from bench import HERE, Bench, Clock, isolate
from facts import fillIn, today
from figures import BY_NAME
from sampled import BEGIN, COLLECTOR, END
from servers import NATIVE, SERVERS, Running, Server, castd, hasNative
from workloads import Workload

EVENTS = "events: waiting for them, fetching them"
RECEIVED = "request: receiving it"
READ = "request: reading it, profiles, limits, rules"
FILE = "file: its name, look-up, opening"
AGREED = "options: agreeing on them, the wire"
PORT = "port: sockets, bind, connect, epoll"
BEGUN = "cast: making it, joining, its timer"
LAID = "blocks: reading the file, laying them out, preparing steps"
HEARD = "ACKs: receiving them"
STEP = "steps: comparing, counting, the time of the next"
MEASURED = "steps: measuring answers, the timeout"
SENT = "datagrams: sending them"
DECIDED = "deciding: what was not predicted"
ENDED = "end: verdict, event, history, counters"
CLOSED = "closing: port, file, cast"
REACTOR = "reactor and timers"
COLLECTED = "garbage collector"
THREADS = "threads"
UNNAMED = "not named"
#: In the order in which a transfer meets them.
STAGES = (
    *(EVENTS, RECEIVED, READ, FILE, AGREED, PORT, BEGUN, LAID, HEARD, STEP, MEASURED, SENT, DECIDED, ENDED, CLOSED),
    *(REACTOR, COLLECTED, THREADS, UNNAMED),
)
#: What may be left without a name.
MOST_UNNAMED = 0.03

#: Belongs to whoever calls it.
CALLER = ""
#: The stage of what a module does; a module is a file below C{castd/}.
MODULES = {
    "cast/allowance": DECIDED,
    "cast/blockset": DECIDED,
    "cast/events": DECIDED,
    "cast/inflight": DECIDED,
    "cast/lateturn": DECIDED,
    "cast/limits": DECIDED,
    "cast/members": DECIDED,
    "cast/policy": DECIDED,
    "cast/reachability": DECIDED,
    "cast/rto": MEASURED,
    "cast/turn": DECIDED,
    "cast/window": DECIDED,
    "cli/serve": REACTOR,
    "dialects/_group": DECIDED,
    "dialects/_tftp": DECIDED,
    "dialects/multicast": DECIDED,
    "dialects/tftp": DECIDED,
    "errors": CALLER,
    "files/access": READ,
    "files/athand": FILE,
    "files/chains": FILE,
    "files/content": FILE,
    "files/mapping": FILE,
    "files/names": FILE,
    "files/regex": CALLER,
    "files/root": FILE,
    "files/spelling": FILE,
    "files/threads": THREADS,
    "group_pool": PORT,
    "interfaces": CALLER,
    "machines/known": READ,
    "machines/table": READ,
    "machines/words": FILE,
    "net/backoff": SENT,
    "net/device_watch": PORT,
    "net/devices": PORT,
    "net/epoll": EVENTS,
    "net/faults": CALLER,
    "net/gso": SENT,
    "net/port_stock": PORT,
    "net/ports": PORT,
    "net/sockets": PORT,
    "net/timers": REACTOR,
    "net/unicast_ports": PORT,
    "networks": CALLER,
    "observe/batch": ENDED,
    "observe/format": ENDED,
    "observe/eventstore": ENDED,
    "observe/history": ENDED,
    "observe/metrics": ENDED,
    "observe/ratelimit": ENDED,
    "observe/stream": ENDED,
    "observe/voice": ENDED,
    "observe/writer": ENDED,
    "outcomes": CALLER,
    "pacing": CALLER,
    "packets/mtftp": CALLER,
    "packets/multicast": CALLER,
    "packets/options": AGREED,
    "packets/tftp": CALLER,
    "profiles/table": READ,
    "repetitions": CALLER,
    "request": CALLER,
    "server/admission": READ,
    "server/attempts": READ,
    "server/blockcache": LAID,
    "server/cast_protocol": DECIDED,
    "server/deaf": DECIDED,
    "server/eventlog": ENDED,
    "server/fallback": DECIDED,
    "server/fastpath": STEP,
    "server/known": CALLER,
    "server/listener": READ,
    "server/machines": READ,
    "server/port_dialect": BEGUN,
    "server/prepared": LAID,
    "server/random": CALLER,
    "server/refusals": ENDED,
    "server/sender": SENT,
    "server/sessions": BEGUN,
    "server/shedding": READ,
    "server/waiting_writes": READ,
    "server/site": CALLER,
    "service/histories": ENDED,
    "service/logs": ENDED,
    "service/recorders": ENDED,
    "units": CALLER,
    "verdicts": ENDED,
}
#: Functions whose stage is not that of their module; of a class all, where only its name is given.
FUNCTIONS = {
    "cast/lateturn:LateTurn.__init__": BEGUN,
    "cast/lateturn:LateTurn.answerMeasured": MEASURED,
    "cast/lateturn:LateTurn.rttConverged": MEASURED,
    "cast/turn:GenericTurn.__init__": BEGUN,
    "cast/turn:GenericTurn.join": BEGUN,
    "cast/turn:GenericTurn.masterAnswered": MEASURED,
    "cast/turn:GenericTurn._elapsed": MEASURED,
    "dialects/_group:GroupWire.__init__": AGREED,
    "dialects/_group:agreeOptions": AGREED,
    "dialects/_group:groupPolicy": AGREED,
    "dialects/_group:oackOptions": AGREED,
    "dialects/_group:readRequest": READ,
    "dialects/_tftp:AckReader.expectedAnswer": LAID,
    "dialects/_tftp:AckReader.expectedAnswers": LAID,
    "dialects/_tftp:readRequest": READ,
    "dialects/_tftp:unfragmented": AGREED,
    "dialects/multicast:Dialect": AGREED,
    "dialects/multicast:Wire.__init__": AGREED,
    "dialects/multicast:Wire.announce": AGREED,
    "dialects/multicast:Wire.headers": LAID,
    "dialects/tftp:Dialect": AGREED,
    "dialects/tftp:Wire.__init__": AGREED,
    "dialects/tftp:Wire.announce": AGREED,
    "dialects/tftp:Wire.headers": LAID,
    "files/content:Directory.close": CLOSED,
    "files/content:File._octetsOf": LAID,
    "files/content:File.close": CLOSED,
    "files/content:File.readAtHand": LAID,
    "files/content:File.readInto": LAID,
    "files/content:_OpenFile.removeReader": CLOSED,
    "files/root:closeFd": CLOSED,
    "net/devices:Interfaces": RECEIVED,
    "net/epoll:EpollSet.add": PORT,
    "net/epoll:EpollSet.change": PORT,
    "net/epoll:EpollSet.remove": CLOSED,
    "net/gso:SegmentOption": PORT,
    "net/ports:GroupPort.readable": HEARD,
    "net/ports:ListeningPort": RECEIVED,
    "net/ports:Ports.readArrived": HEARD,
    "net/ports:UnconnectedPort._sendTo": SENT,
    "net/ports:UnconnectedPort._trySendTo": SENT,
    "net/ports:UnconnectedPort.burstWriter": SENT,
    "net/ports:UnconnectedPort.stopListening": CLOSED,
    "net/ports:UnconnectedPort.write": SENT,
    "net/ports:UnconnectedPort.writeBurst": SENT,
    "net/sockets:closeSocket": CLOSED,
    "net/sockets:receiveFrom": RECEIVED,
    "net/timers:Timers.set": BEGUN,
    "net/unicast_ports:SocketPair._readTwin": HEARD,
    "net/unicast_ports:SocketPair.close": CLOSED,
    "net/unicast_ports:UnicastPort.burstWriter": SENT,
    "net/unicast_ports:UnicastPort.readArrived": HEARD,
    "net/unicast_ports:UnicastPort.readable": HEARD,
    "net/unicast_ports:UnicastPort.stopListening": CLOSED,
    "net/unicast_ports:UnicastPort.write": SENT,
    "net/unicast_ports:UnicastPort.writeBurst": SENT,
    "packets/tftp:dataHeaders": LAID,
    "server/admission:Admission.leave": ENDED,
    "server/attempts:Attempts.fetched": ENDED,
    "server/cast_protocol:CastProtocol.__init__": BEGUN,
    "server/cast_protocol:CastProtocol._announce": AGREED,
    "server/cast_protocol:CastProtocol._ending": ENDED,
    "server/cast_protocol:CastProtocol._farewell": ENDED,
    "server/cast_protocol:CastProtocol._joinUnasked": BEGUN,
    "server/cast_protocol:CastProtocol._leaveUnasked": ENDED,
    "server/cast_protocol:CastProtocol._peerState": BEGUN,
    "server/cast_protocol:CastProtocol._receiverLeft": ENDED,
    "server/cast_protocol:CastProtocol.close": CLOSED,
    "server/cast_protocol:CastProtocol.dismiss": ENDED,
    "server/cast_protocol:CastProtocol.join": BEGUN,
    "server/cast_protocol:CastProtocol.largest": HEARD,
    "server/cast_protocol:Receiver": BEGUN,
    "server/cast_protocol:closeContent": CLOSED,
    "server/fastpath:FastPath.__init__": BEGUN,
    "server/fastpath:FastPath._drawJitter": MEASURED,
    "server/fastpath:FastPath._holdChunk": LAID,
    "server/fastpath:FastPath._masterDue": MEASURED,
    "server/fastpath:FastPath._measuredStep": MEASURED,
    "server/fastpath:FastPath._predictFirstAnswer": LAID,
    "server/fastpath:FastPath._sendPredicted": SENT,
    "server/fastpath:FastPath.chunk": LAID,
    "server/listener:Listener._checkDrained": CLOSED,
    "server/listener:Listener._found": BEGUN,
    "server/listener:Listener._lookUp": FILE,
    "server/listener:Listener.castClosed": CLOSED,
    "server/listener:Listener.receiverLeft": ENDED,
    "server/random:BufferedSystemRandom": MEASURED,
    "server/sessions:Opener.forget": CLOSED,
    "server/sessions:Sessions.end": CLOSED,
    "server/sessions:Sessions.leave": ENDED,
    "server/site:Site.find": FILE,
    "server/site:Site.lookup": FILE,
}
#: Calls of the system that mean the same whoever makes them.
CALLS = {"epoll_wait": EVENTS} | dict.fromkeys(("send", "sendto", "sendmsg", "sendmmsg"), SENT)
#: What the native loop does, by the nearest function of the C library; all else of its own is steps.
COMPILED = CALLS | {"recv": HEARD, "recvfrom": HEARD}
#: The same of the ceiling.
LEAST = {
    **CALLS,
    **dict.fromkeys(("socket", "bind", "connect", "epoll_ctl", "setsockopt"), PORT),
    "close": CLOSED,
    "open": FILE,
    "openat": FILE,
    "read": LAID,
    "recv": HEARD,
    "recvfrom": RECEIVED,
}
#: Of the compiled code that lays out chunks nearly all is copying.
COPIED = ("memcpy", "memmove")

#: Workload, and what it is called in C{--only} and on the page.
WORKS = (("storm", "storm"), ("lockstep-64", "lane"), ("groups-16", "group"))
#: Which part of the time is for rounds without the sampler, and how many there are at least.
PLAIN, LEAST_PLAIN = 0.4, 3

Row = tuple[float, float]
"""Microseconds, and those of them that were spent in the kernel."""

Found = tuple[str, list[str], int]
"""Where the processor was, the functions of Python that led there (innermost first), and how many samples."""


def stageOf(where: str, functions: Sequence[str]) -> str:
    """
    @param where: as C{sampler.c} says it, or L{COLLECTOR}.
    @param functions: those of Python that led there, innermost first, as C{sampled.py} writes them.
    @return: the stage that a sample of castd belongs to.
    """
    if where == COLLECTOR:
        return COLLECTED
    mode, _, call = where.partition(" ")
    call = call.lstrip("_")
    if mode.startswith("thread"):
        return THREADS
    if mode.startswith("native"):
        return COMPILED.get(call, STEP) if mode.endswith("kernel") else LAID if call in COPIED else STEP
    if mode == "kernel" and call in CALLS:
        return CALLS[call]
    for function in functions:
        package, _, inner = function.partition("/")
        if package != "castd":
            continue
        stage = _named(inner)
        if stage != CALLER:
            return stage
    return UNNAMED


def _named(function: str) -> str:
    """@return: the stage of a function of castd; L{CALLER}: that of whoever called it."""
    module, _, name = function.partition(":")
    module, name = module.removesuffix(".py"), name.partition(".<locals>")[0]
    for known in (name, name.partition(".")[0]):
        if (stage := FUNCTIONS.get(f"{module}:{known}")) is not None:
            return stage
    return MODULES.get(module, UNNAMED)


def leastStage(where: str, group: bool) -> str:
    """@return: the stage that a sample of the ceiling belongs to; C{group}: all arrives at one socket."""
    mode, _, call = where.partition(" ")
    call = call.lstrip("_")
    if mode != "kernel":
        return STEP
    return HEARD if group and call == "recvfrom" else LEAST.get(call, UNNAMED)


@dataclass
class Costs:
    """
    What one unit costs a server, and which stages have how much of it.

    @ivar plain: microseconds, by round, without the sampler.
    @ivar sampled: seconds and units of the rounds with it.
    @ivar stages: samples by stage; C{kernel}: those of them that were in the kernel.
    @ivar functions: samples by the stage and the function that they were met in, with what was called.
    """

    plain: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)
    kernel: Counter[str] = field(default_factory=Counter)
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def total(self) -> float:
        """Microseconds of one unit, the median of the rounds without the sampler."""
        return median(self.plain)

    def add(self, stage: str, where: str, functions: Sequence[str], samples: int) -> None:
        """Count samples."""
        self.stages[stage] += samples
        if "kernel" in where.partition(" ")[0]:
            self.kernel[stage] += samples
        mode, _, call = where.partition(" ")
        inner = (
            next((each for each in functions if each.startswith("castd/")), "") if mode in ("user", "kernel") else ""
        )
        self.functions[stage, inner if mode == "user" else f"{inner} {mode} {call}".strip()] += samples

    def of(self, samples: float) -> float:
        """@return: microseconds of one unit that so many samples stand for."""
        return self.total * samples / max(1, self.stages.total())

    def row(self, stages: Iterable[str]) -> Row:
        """@return: what these stages cost."""
        names = list(stages)
        return self.of(sum(self.stages[name] for name in names)), self.of(sum(self.kernel[name] for name in names))

    def error(self, stage: str) -> float:
        """@return: the standard error of a stage, microseconds."""
        many = max(1, self.stages.total())
        part = self.stages[stage] / many
        return float(self.total * (part * (1 - part) / many) ** 0.5)


class Subject:
    """A server with a sampler in it, which does nothing until it is told."""

    def __init__(self, server: Server, room: Path, workload: Workload) -> None:
        """
        @param room: the folder where C{sampler.so} is.
        """
        self.costs = Costs()
        self._group = workload.kind == "group"
        self._file = room / f"{workload.name}-{server.name}.samples"
        self._least = server.kind == "ceiling"
        library = str(room / "sampler.so")

        def command(root: Path, place: Path, groups: bool) -> list[str]:
            words = server.command(root, place, groups)
            if self._least:
                return ["env", f"LD_PRELOAD={library}", f"SAMPLER={self._file}", *words]
            return [words[0], str(HERE / "sampled.py"), library, str(self._file), *words[words.index("castd") + 1 :]]

        self.server = replace(server, command=command)
        self.running: Running | None = None

    def tell(self, number: int) -> None:
        """Send a signal to the server."""
        assert self.running is not None
        for process in self.running.group.members():
            os.kill(process, number)

    def collect(self) -> None:
        """Have the samples written, and sort them.

        @raise click.ClickException: none were written.
        """
        self.tell(END)
        deadline = time.monotonic() + 10
        while not self._file.exists():
            if time.monotonic() > deadline:
                raise click.ClickException(f"{self.server.name} wrote no samples")
            time.sleep(0.05)
        for where, functions, samples in self._samples(self._file.read_text()):
            stage = leastStage(where, self._group) if self._least else stageOf(where, functions)
            self.costs.add(stage, where, functions, samples)

    def _samples(self, text: str) -> Iterable[Found]:
        if self._least:
            return [(where, [], many) for where, many in Counter(text.splitlines()).items()]
        return [(where, functions, many) for where, functions, many in json.loads(text)]


def measure(bench: Bench, workload: Workload, subjects: list[Subject], clock: Clock) -> None:
    """Let the servers take turns: rounds that warm up, rounds without the sampler, and rounds with it until it is time.

    @raise click.ClickException: a server does not serve, or not all.
    """
    try:
        for subject in subjects:
            subject.running, _ = bench.start(subject.server, workload)
            once(bench, workload, subject, 0, "warm")
        number, plain = 0, Clock(clock.left() * PLAIN)
        while plain.left() > 0 or number < LEAST_PLAIN:
            number += 1
            for subject in turned(subjects, number):
                subject.costs.plain.append(once(bench, workload, subject, number, "poll", again=1))
        for subject in subjects:
            subject.tell(BEGIN)
        while clock.left() > 0 or not subjects[0].costs.sampled:
            number += 1
            for subject in turned(subjects, number):
                subject.costs.sampled.append(once(bench, workload, subject, number, "poll"))
        for subject in subjects:
            subject.collect()
    finally:
        for subject in subjects:
            if subject.running is not None:
                subject.running.end()


def turned(subjects: list[Subject], number: int) -> list[Subject]:
    """@return: the servers in the order of a round: none is always the first."""
    turn = number % len(subjects)
    return subjects[turn:] + subjects[:turn]


def once(bench: Bench, workload: Workload, subject: Subject, number: int, mode: str, again: int = 0) -> float:
    """
    @param again: how often the round is repeated if others disturbed it.
    @return: microseconds of one unit.
    """
    assert subject.running is not None
    sample = bench.round(subject.running, workload, number, mode, again)
    if sample["failures"]:
        raise click.ClickException(f"{subject.server.name} failed in {workload.name}")
    return float(sample["server_cpu"] / workload.units(sample["blocks"], sample["ended"]) * 1e6)


def table(subjects: dict[str, Costs], unit: str) -> list[str]:
    """
    @param subjects: by name, the ceiling last.
    @return: the lines of a table in Markdown.
    """
    *castds, least = subjects.items()
    heads = [f"{name}: µs | of it in the kernel" for name, _ in castds] + [f"{least[0]}: µs"]
    lines = [f"| of one {unit} | " + " | ".join(heads) + " |", "|---|" + "---|" * (2 * len(castds) + 1)]
    digits = 1 if max(costs.total for costs in subjects.values()) > 50 else 2
    floor, visible = least[1].row(STAGES), 0.5 * 10**-digits

    def line(head: str, stages: Sequence[str], less: Row = (0.0, 0.0), last: bool = True) -> str:
        rows = [(all_ - less[0], kernel - less[1]) for all_, kernel in (costs.row(stages) for _, costs in castds)]
        cells = [each for row in rows for each in row] + ([least[1].row(stages)[0]] if last else [0.0])
        return (
            f"| {head} | " + " | ".join(f"{each:.{digits}f}" if abs(each) >= visible else "" for each in cells) + " |"
        )

    def shown(stage: str) -> bool:
        return any(costs.row((stage,))[0] >= visible for costs in subjects.values())

    lines += [line(stage, (stage,)) for stage in STAGES if stage == UNNAMED or shown(stage)]
    return [*lines, line("**all**", STAGES), line("**above the ceiling**", STAGES, floor, last=False)]


def notes(subjects: dict[str, Costs]) -> list[str]:
    """@return: how well the figures are known, in words."""
    lines = []
    for name, costs in subjects.items():
        most, plain = max(STAGES, key=costs.error), costs.plain
        lines.append(
            f"- {name}: {len(plain)} rounds without the sampler, {min(plain):.2f} to {max(plain):.2f} "
            f"µs; with it {median(costs.sampled):.2f}; {costs.stages.total()} samples, standard error of a row at most "
            f"{costs.error(most):.2f}; not named {costs.stages[UNNAMED] / max(1, costs.stages.total()):.1%}."
        )
    return lines


def functions(name: str, costs: Costs, many: int) -> list[str]:
    """
    @param many: how many are told; those without a name always are.
    @return: the dearest functions.
    """
    found = costs.functions.most_common()
    told = found[:many] + [each for each in found[many:] if each[0][0] == UNNAMED]
    return [
        f"{name}: {costs.of(samples):8.2f} µs  {stage.partition(':')[0]:12} {what}" for (stage, what), samples in told
    ]


def subjectsOf(room: Path, workload: Workload) -> list[Subject]:
    """@return: castd, castd with its native loop where it has one, and the ceiling."""
    native = [castd(NATIVE, 7075, native=True)] if hasNative() else []
    least = [server for server in SERVERS if server.kind == "ceiling"]
    return [Subject(server, room, workload) for server in (castd("castd", 7069), *native, *least)]


@click.command()
@click.option("--only", default="storm,lane,group", show_default=True, help="What is measured.")
@click.option("--minutes", default=2.8, show_default=True, help="That the whole takes, about.")
@click.option("--cpus", default="0,1", show_default=True, help="The server's CPU and the client's.")
@click.option("--functions", "dearest", default=0, help="Print so many of the dearest functions of each, too.")
@click.option("--docs", is_flag=True, help="Write the tables into docs/profile.md.")
def main(only: str, minutes: float, cpus: str, dearest: int, docs: bool) -> None:
    """Print where the time goes, and end with status 1 where more than 3 % of it has no name."""
    isolate()
    server, _, client = cpus.partition(",")
    clock, here = Clock(minutes * 60), f"{today()}, {platform.system()} {platform.release()}."
    works, nameless = [(BY_NAME[work], word) for work, word in WORKS if word in only.split(",")], False
    with tempfile.TemporaryDirectory(prefix="castd-stages-") as folder:
        bench = Bench(Path(folder), (int(server), int(client)))
        library = [str(Path(folder) / "sampler.so"), str(HERE / "sampler.c"), "-ldl"]
        subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", *library], check=True)
        for place, (workload, word) in enumerate(works):
            subjects = subjectsOf(Path(folder), workload)
            measure(bench, workload, subjects, clock.share(len(works) - place))
            found = {subject.server.name: subject.costs for subject in subjects}
            lines = [here, "", *table(found, workload.unit), "", *notes(found)]
            click.echo("\n".join(["", f"{workload.name}: {workload.title}", "", *lines, ""]))
            if docs:
                fillIn("profile.md", f"stages.py {word}", lines)
            for name, costs in found.items():
                for told in functions(name, costs, dearest):
                    click.echo(told)
                nameless |= costs.stages[UNNAMED] > MOST_UNNAMED * costs.stages.total()
    if nameless:
        raise click.ClickException(f"more than {MOST_UNNAMED:.0%} of a table has no name")


if __name__ == "__main__":
    main()
