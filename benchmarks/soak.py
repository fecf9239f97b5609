"""
Runs a soak: one castd, all transports, thousands of clients that lose datagrams and die, hostile datagrams, reloads.
At the end of each lap, without clients, the server must hold the same resources as before.

    sudo python benchmarks/soak.py --minutes 60

Everything runs in a network namespace of its own, which ends with it.  Exit status 1: something was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crowd import Crowd, Shop
from machines import Enemy
from soaked import BAD, ONE, REQUEST_PORTS, SERVER, SIZES, TWO, Server
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

reactor: Any = _reactor
INSIDE = "CASTD_SOAK_INSIDE"
NETWORK = (
    "link set lo up",
    "link set lo mtu 1500",
    "link add fab0 type veth peer name fab1",
    "link set fab1 up",
    f"addr add {SERVER}/16 brd + dev fab0",
    "link set fab0 up",
    "route add default dev fab0",
    # Every address of this network is a machine of the soak.
    "route add local 10.99.0.0/16 dev lo",
)
HOSTS = [f"10.99.{high}.{low}" for high in range(1, 33) for low in range(1, 251)]
#: How much the memory of the server may grow from the first lap on, as a share.
GROWTH = 0.15
#: Descriptors by which two laps may differ: threads open directories for a moment.  What leaks one with each reload or
#: upload leaks dozens in a lap.
PASSING = 4
#: The share of clients that may fail: the client or the server gives up after so many losses.
FAILING = 0.01


def say(text: str) -> None:
    """Print a line, unbuffered."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Soak:
    """Runs laps: load, then quiet, then a check of what the server holds."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        chance = random.Random(options.seed)
        self.options = options
        self.server = Server(folder, chance)
        names = {
            "lockstep": ("empty", "tiny", "small", "middle"),
            "window": tuple(SIZES),
            "upload": ("",),
            "multicast": ("g0", "g1"),
            "sbroadcast": ("g0", "g1"),
            "mtftp": ("m0;group=239.255.1.1:3001", "m1;group=239.255.1.1:3002"),
            "slam": ("/239.255.1.1:10010", ":10001/239.255.1.1:10011"),
        }
        shop = Shop(SERVER, self.server.right, self.server.stored, names)
        self.crowd = Crowd(reactor, shop, HOSTS, chance, options.loss / 100, options.deaths / 100)
        self.chance = chance
        self.laps: list[dict[str, Any]] = []
        self.most: dict[str, int] = {}
        self.bad: list[str] = []

    async def run(self) -> None:
        await self._ready()
        end = time.monotonic() + self.options.minutes * 60
        while len(self.laps) < 2 or time.monotonic() < end:
            await self._load(self.options.lap)
            await self._quiet()
        self._judge()
        self._show()

    async def _ready(self) -> None:
        for _ in range(200):
            try:
                await self.server.ask()
            except Exception:
                await deferLater(reactor, 0.1)
            else:
                return
        raise SystemExit(self.server.log.read_text())

    async def _load(self, seconds: float) -> None:
        enemies = [Enemy(SERVER, self.chance.choice(HOSTS)) for _ in range(8)]

        def hostile() -> None:
            for _ in range(self.options.hostile // 10):
                self.chance.choice(enemies).speak(*self.crowd.hostile(REQUEST_PORTS))

        loops = [LoopingCall(call) for call in (lambda: self.crowd.fill(self.options.clients), hostile, self._look)]
        for loop, every in zip(loops, (0.05, 0.1, 1.0), strict=True):
            loop.start(every).addErrback(self._fault)
        await self._reload(time.monotonic() + seconds)
        for loop in loops:
            loop.stop()
        for enemy in enemies:
            enemy.close()

    async def _reload(self, end: float) -> None:
        """Reload the other service file, again and again; sometimes a bad one, and sometimes ten times a second."""
        turn = 0
        while time.monotonic() < end:
            await deferLater(reactor, self.options.reload)
            turn += 1
            if turn % 5 == 0:
                self.server.reload(BAD)
                await deferLater(reactor, 0.5)
            if turn % 6 == 0:
                for again in range(20):
                    self.server.reload((TWO, ONE)[again % 2])
                    await deferLater(reactor, 0.1)
            self.server.reload((ONE, TWO)[turn % 2])

    async def _look(self) -> None:
        """Record the most that the server holds while it is busy."""
        held = (await self.server.ask())["held"]
        self.most = {key: max(value, self.most.get(key, 0)) for key, value in held.items()}

    async def _quiet(self) -> None:
        """Wait until no client is left, and record what the server holds."""
        await deferLater(reactor, 1)
        self.server.reload(ONE)
        began = time.monotonic()
        while True:
            await deferLater(reactor, 0.5)
            status = await self.server.ask()
            held = status["held"]
            if not (self.crowd.busy or held["casts"] or held["looking"] or held["receivers"] or held["alarms"]):
                break
            if time.monotonic() - began > self.options.patience:
                self.bad.append(f"lap {len(self.laps) + 1}: not quiet: {self.crowd.busy} clients, {json.dumps(status)}")
                break
        held["memory"] = self.server.memory()
        self.laps.append(held)
        self._tell(held, time.monotonic() - began)

    def _tell(self, held: dict[str, Any], seconds: float) -> None:
        tally, kib = self.crowd.tally, held["memory"] // 1024
        wrong = f"{tally.wrong.total()} wrong" + "".join(f", {kind}" for kind in tally.wrong)
        say(
            f"lap {len(self.laps)}: {tally.asked.total()} clients, {tally.complete.total()} complete, "
            f"{tally.died.total()} died, {tally.failed.total()} failed, {wrong}; "
            f"{tally.octets / 1e6:.0f} MB, {tally.hostile} hostile, {self.server.reloads} reloads; quiet after "
            f"{seconds:.1f} s: {held['descriptors']} descriptors ({held['ports']} kept ports), "
            f"{held['alarms']} alarms, {held['calls']} calls, {kib} KiB; at most {self.most.get('casts')} casts, "
            f"{self.most.get('descriptors')} descriptors, {self.most.get('alarms')} alarms"
        )

    def _judge(self) -> None:
        """Compare with the first lap, the warm-up; check that no fault was logged and all clients were served."""
        tally, bad = self.crowd.tally, self.bad
        first, last = self.laps[0], self.laps[-1]
        for number, lap in enumerate(self.laps[1:], 2):
            bare = [each["descriptors"] - 2 * each["ports"] for each in (first, lap)]
            if abs(bare[0] - bare[1]) > PASSING:
                bad.append(f"lap {number}: {bare[1]} descriptors without kept ports, {bare[0]} in the first")
            bad += [
                f"lap {number}: {lap[key]} {key}, {first[key]} in the first"
                for key in ("calls", "alarms", "casts", "receivers", "looking")
                if lap[key] > first[key]
            ]
        if last["memory"] > first["memory"] * (1 + GROWTH):
            bad.append(f"memory has grown from {first['memory']} to {last['memory']} octets")
        bad += [f"{kind}: {count} copies were wrong" for kind, count in tally.wrong.items()]
        bad += [f"{kind}: nobody was served" for kind in tally.asked if not tally.complete[kind]]
        if tally.failed.total() > FAILING * tally.asked.total():
            bad.append(f"{tally.failed.total()} clients have failed")
        bad += [f"in castd's log: {line}" for line in self.server.faults()[:20]]
        if self.server.process.poll() is not None:
            bad.append(f"castd ended with {self.server.process.returncode}")

    def _show(self) -> None:
        """Print the results of each kind of transfer, and the reasons of failures."""
        tally = self.crowd.tally
        for kind in tally.asked:
            counts = (tally.asked, tally.complete, tally.died, tally.failed, tally.wrong)
            say(
                f"{kind:>10}: "
                + ", ".join(
                    f"{counter[kind]} {word}"
                    for counter, word in zip(counts, ("asked", "complete", "died", "failed", "wrong"), strict=True)
                )
            )
        for why, count in tally.why.most_common(20):
            say(f"{count:>6} × {why}")

    def _fault(self, failure: Any) -> None:
        self.bad.append(failure.getTraceback())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, about")
    parser.add_argument("--lap", type=float, default=240.0, help="seconds of load between two looks")
    parser.add_argument("--clients", type=int, default=60, help="machines at once")
    parser.add_argument("--loss", type=float, default=1.0, help="percent, each way")
    parser.add_argument("--deaths", type=float, default=4.0, help="percent of machines that die in mid-transfer")
    parser.add_argument("--hostile", type=int, default=200, help="hostile datagrams a second")
    parser.add_argument("--reload", type=float, default=3.0, help="seconds between reloads")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds until all must be quiet after a lap")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main() -> int:
    """Enter a namespace, run the soak, and print what was wrong."""
    options = parse(sys.argv[1:])
    if INSIDE not in os.environ:
        rootless = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        words = ["unshare", "--net", *rootless, sys.executable, __file__, *sys.argv[1:]]
        os.execvpe(words[0], words, {**os.environ, INSIDE: "1"})
    subprocess.run(["ip", "-batch", "-"], input="\n".join(NETWORK), text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="castd-soak-") as folder:
        soak = Soak(options, Path(folder))

        async def whole() -> None:
            try:
                await soak.run()
            finally:
                soak.server.process.terminate()
                code = await deferToThread(soak.server.process.wait, 60)
                if code != 0:
                    soak.bad.append(f"castd ended with {code} after SIGTERM")

        def begin() -> None:
            Deferred.fromCoroutine(whole()).addErrback(soak._fault).addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
        for line in soak.bad:
            say(f"WRONG: {line}")
        say("all as before" if not soak.bad else f"{len(soak.bad)} things are wrong")
    return 1 if soak.bad else 0


if __name__ == "__main__":
    sys.exit(main())
