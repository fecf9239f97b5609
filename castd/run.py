"""
What C{twistd castd} and C{castd serve} both do before anything is served.
"""

from __future__ import annotations

import gc
import resource
import time
from pathlib import Path
from typing import IO, Any

from twisted.logger import FilteringLogObserver, ILogObserver, LogLevel, LogLevelFilterPredicate

from castd.chance import Chance
from castd.config import Logging
from castd.maker import collect
from castd.observe import jsonLog, textLog
from castd.ports import Ports
from castd.service import Server, compose, read


def prepare(file: Path | str, reactor: Any) -> Server:
    """
    Read and make everything; no request port is open yet.

    @param reactor: nothing may be scheduled with it yet.
    @raise ConfigError: one line for each fault.
    """
    steady(reactor)
    moreDescriptors()
    seldomCollect()
    collected = collect()
    config = read(file, collected)
    chance = Chance()
    server = compose(config, collected, reactor, Ports(reactor, chance), chance)
    # What is here now stays: the collector need not look at all of it again and again.
    gc.freeze()
    return server


def log(options: Logging, stream: IO[str]) -> ILogObserver:
    """The log, from the level on that the service file says, and in its format."""
    write = {"text": textLog, "json": jsonLog}[options.format](stream)
    return FilteringLogObserver(write, [LogLevelFilterPredicate(LogLevel.levelWithName(options.level))])


def steady(reactor: Any) -> None:
    """Let the reactor count time that nobody sets back: with C{time.time} a corrected clock would stop every timer."""
    reactor.seconds = time.monotonic


def seldomCollect() -> None:
    """
    Collect garbage seldom: a transfer makes some hundred objects and leaves few cycles, and in a storm of requests the
    collector took a quarter of the time (benchmarks/, workload storm).
    """
    gc.set_threshold(20_000, 20, 50)


def moreDescriptors() -> int:
    """Each transfer needs one or two; ask for as many as this process may have.  -> how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
