"""
castd in a host of the hall.

C{CASTD_COMMAND} in the environment says which one: C{castd} is the script of an installed wheel, and then
nothing of the source tree is in reach.  Without it the tree that holds these tests is run.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.jobs import Job, Late, eventually
from tests.support.lab.hall import Host

TREE = Path(__file__).parents[3]
STARTING, STOPPING = 15.0, 10.0
"""Seconds castd has to listen, and to end when no transfer runs."""


def command() -> list[str]:
    installed = os.environ.get("CASTD_COMMAND")
    return shlex.split(installed) if installed else [sys.executable, "-m", "castd"]


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports of the UDP sockets in the namespace of a process, as the kernel lists them."""
    found = set()
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            words = [struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8)]
            found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def addresses(service: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Where the transports of a service file listen."""
    return {(options.get("interface") or "0.0.0.0", options["port"]) for options in service["transports"].values()}


class Server:
    """
    A running castd.

    @ivar host: the machine it runs on.
    """

    def __init__(self, host: Host, service: Mapping[str, Any], seconds: float = STARTING) -> None:
        """
        Start it, and wait until it listens wherever its service file says.

        @raise Late: if it ends, or does not listen in time; the text has its log.
        """
        self.host = host
        conf = host.folder / "castd.yaml"
        conf.write_text(yaml.safe_dump(dict(service), sort_keys=False))
        cwd = host.folder if "CASTD_COMMAND" in os.environ else TREE
        self.job: Job = host.start([*command(), "serve", "-c", str(conf)], cwd=cwd)
        wanted = addresses(service)

        def ready() -> bool:
            if self.job.process.poll() is not None:
                raise Late(f"castd ended with {self.job.process.returncode}:\n{self.log()}")
            return wanted <= listening(self.job.pid)

        try:
            eventually(ready, f"castd to listen at {sorted(wanted)}", seconds)
        except Late as late:
            raise Late(f"{late}\n{self.log()}") from None

    def log(self) -> str:
        return self.job.text()

    def stop(self) -> None:
        """
        End it by SIGTERM.

        @raise AssertionError: if it was not alive, did not end cleanly, or met an error it did not expect.
        """
        alive = self.job.process.poll() is None
        code = self.job.end(grace=STOPPING)
        log = self.log()
        assert alive, f"castd had ended with {code}:\n{log[-4000:]}"
        assert code == 0, f"castd left with {code} after SIGTERM:\n{log[-4000:]}"
        for sign in ("Traceback", "Unhandled"):
            at = log.find(sign)
            assert at < 0, f"in castd's log:\n{log[max(0, at - 500) : at + 3000]}"
