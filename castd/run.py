"""
What C{twistd castd} and C{castd serve} both do before anything is served.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

from castd.chance import Chance
from castd.maker import collect
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
    collected = collect()
    config = read(file, collected)
    chance = Chance()
    return compose(config, collected, reactor, Ports(reactor, chance), chance)


def steady(reactor: Any) -> None:
    """Let the reactor count time that nobody sets back: with C{time.time} a corrected clock would stop every timer."""
    reactor.seconds = time.monotonic


def moreDescriptors() -> int:
    """Each transfer needs one or two; ask for as many as this process may have.  -> how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
