"""
Read the command line of mini-slamd, Etherboot's server for SLAM, which names one file and nothing else.

Its port and group are written into its source, C{contrib/mini-slamd/mini-slamd.c}.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import abspath, split

from castd.errors import ConfigError
from castd.migrate.draft import Draft, OldMachine
from castd.migrate.words import CommandWord, commandWords

PROGRAMS = ("mini-slamd",)
PORT, GROUP, BLKSIZE = 10000, "232.0.0.128:10000", 1451


def read(files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
    """Fill a draft from a command line, or from a unit of systemd."""
    words = commandWords(files, command, PROGRAMS, machine, draft, _startsNothing)
    if len(words) != 1:
        raise ConfigError("mini-slamd: no command line with one file: say --command 'mini-slamd FILE'")
    (word,) = words
    folder, name = split(abspath(word.text))
    draft.serve({"path": folder}, word.place)
    draft.rule({"allow": "any", "names": [f"/{name}"], "for": "read"}, word.place)
    draft.listen("slam", {"port": PORT, "file": name, "group": GROUP, "blksize": BLKSIZE}, word.place)
    draft.tell(
        word.place,
        f"mini-slamd sends to {GROUP}, as Etherboot was told; today's iPXE hears 239.255.1.1:10000 only",
        "leave out group, if the clients are iPXE",
    )
    draft.tell(
        word.place, "mini-slamd sends as fast as the link takes it", "castd sends 12 MB/s; set rate for more or less"
    )


def _startsNothing(file: str) -> list[CommandWord]:
    raise ConfigError(f"{file}: no line starts mini-slamd; say --command 'mini-slamd FILE'")
