"""
The clients, all driven alike.

Each starts at once and returns a L{Transfer}, so that many can run side by side:

    transfers = [atftp.get(host, "kernel", "blksize 1428") for host in hosts]
    results = [transfer.result() for transfer in transfers]
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.jobs import Job, atOnce
from tests.support.lab.castd import TREE, command
from tests.support.lab.hall import Host
from tests.support.needs import needed

SERVER = "10.77.0.1"
LOADED = 30
"""Seconds within which a program is loaded."""
_numbers = itertools.count(1)


class Result(NamedTuple):
    """How a client ended: exit status, what it said, the file it has written (None: there is none), seconds."""

    code: int
    text: str
    data: bytes | None
    seconds: float


class Transfer:
    """A client at work."""

    def __init__(self, job: Job, local: Path) -> None:
        self.job, self.local = job, local

    def result(self, seconds: float = 30) -> Result:
        """
        Wait for its end.

        @raise Late: if it takes longer than C{seconds} from now.
        """
        done = self.job.finish(seconds)
        return Result(done.code, done.text, self.local.read_bytes() if self.local.exists() else None, done.seconds)


class Client:
    """One client program; what differs is its command line."""

    program: tuple[str, ...]
    reading: tuple[str, ...]
    writing: tuple[str, ...]
    option: tuple[str, ...] = ("{option}",)
    """
    Templates of its words, of C{name}, C{local} (in the host's folder), C{path} (the same, absolute), C{server},
    C{port}, C{url}; C{option} for each option.
    """

    def get(self, host: Host, name: str, *options: str, server: str = SERVER, port: int = 69) -> Transfer:
        """Read a file into a new one in the host's folder.  Options are in the words of the client."""
        local = host.folder / f"got-{next(_numbers)}"
        return self._start(self.reading, host, name, local, options, server, port)

    def getTogether(
        self, hosts: Sequence[Host], name: str, *options: str, server: str = SERVER, port: int = 69
    ) -> list[Transfer]:
        """
        Have several hosts read a file, and begin in one moment: to one that a busy machine starts after the gathering
        a group sends the beginning once more.
        """
        held = _Held(self)
        transfers = [held.get(host, name, *options, server=server, port=port) for host in hosts]
        atOnce([transfer.job for transfer in transfers], LOADED)
        return transfers

    def put(self, host: Host, name: str, data: bytes, *options: str, server: str = SERVER, port: int = 69) -> Transfer:
        """Write this content to the server."""
        local = host.folder / f"put-{next(_numbers)}"
        local.write_bytes(data)
        return self._start(self.writing, host, name, local, options, server, port)

    def _start(
        self,
        words: tuple[str, ...],
        host: Host,
        name: str,
        local: Path,
        options: tuple[str, ...],
        server: str,
        port: int,
    ) -> Transfer:
        url = f"tftp://{f'[{server}]' if ':' in server else server}:{port}/{name}"
        spelled = [part.format(option=option) for option in options for part in self.option]
        known = {"name": name, "local": local.name, "path": local, "server": server, "port": port, "url": url}
        named = [word.format_map(known) for word in words]
        return Transfer(self.start(host, [*self.program, *spelled, *named]), local)

    def start(self, host: Host, words: list[str]) -> Job:
        """Start this command line, in the host's folder."""
        return host.start(words)


class _Held(Client):
    """Starts another client, which waits for a line before it begins (L{atOnce})."""

    def __init__(self, client: Client) -> None:
        self.program, self.reading, self.option = client.program, client.reading, client.option

    def start(self, host: Host, words: list[str]) -> Job:
        return host.start(["sh", "-c", 'echo ready; read -r go; exec "$@"', "held", *needed(words)])


class Atftp(Client):
    """Knows every option, windows and multicast among them.  An option: C{"blksize 1428"}."""

    program: tuple[str, ...] = ("atftp",)
    reading = ("--get", "-r", "{name}", "-l", "{local}", "{server}", "{port}")
    writing = ("--put", "-r", "{name}", "-l", "{local}", "{server}", "{port}")
    option = ("--option", "{option}")


class Hasty(Atftp):
    """
    atftp that waits one second, not five, before it repeats itself.

    It answers a repeated block once; when that answer is lost as well, it is silent until its own wait is over.
    """

    program = ("atftp", "--tftp-timeout", "1")


class Mget(Client):
    """atftp as a reader of PXE's MTFTP.  Options are where it listens: C{"mcast-ip 239.1.1.1", "client-port 76"}."""

    program = ("atftp",)
    reading = ("--mget", "-r", "{name}", "-l", "{local}", "{server}", "{port}")
    option = ("--mtftp", "{option}")


class Hpa(Client):
    """tftp-hpa's: no options on the wire, so blocks of 512 and the roll-over of their numbers.  An option: C{-6}."""

    program = ("tftp",)
    reading = ("-m", "octet", "{server}", "{port}", "-c", "get", "{name}", "{local}")
    writing = ("-m", "octet", "{server}", "{port}", "-c", "put", "{local}", "{name}")


class HpaText(Hpa):
    """The same in mode netascii."""

    reading = ("-m", "ascii", *Hpa.reading[2:])
    writing = ("-m", "ascii", *Hpa.writing[2:])


class Curl(Client):
    """Always asks for tsize, blksize and timeout.  Options: C{"--tftp-blksize", "1428"}."""

    program = ("curl",)
    reading = ("-sS", "-o", "{local}", "{url}")
    writing = ("-sS", "-T", "{local}", "{url}")


class Busybox(Client):
    """As in initial RAM disks; hears nobody but the address and port that answered first.  An option: C{-b1428}."""

    program = ("busybox", "tftp")
    reading = ("-g", "-r", "{name}", "-l", "{local}", "{server}", "{port}")
    writing = ("-p", "-r", "{name}", "-l", "{local}", "{server}", "{port}")


class Castd(Client):
    """castd's own, from the tree or from C{CASTD_COMMAND}.  Options: C{"--windowsize", "16"}."""

    program = ("castd",)
    reading = ("get", "-q", "-o", "{path}", "{url}")
    writing = ("put", "-q", "{path}", "{url}")

    def start(self, host: Host, words: list[str]) -> Job:
        verb = words.index("get" if "get" in words else "put")
        # Options belong to the verb.
        return host.start([*command(), words[verb], *words[1:verb], *words[verb + 1 :]], cwd=TREE)


atftp, hasty, mget, hpa, hpaText, curl, busybox = Atftp(), Hasty(), Mget(), Hpa(), HpaText(), Curl(), Busybox()
castd = Castd()
