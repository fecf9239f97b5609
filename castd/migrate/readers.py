"""
List the servers whose configuration castd reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from castd.errors import ConfigError
from castd.migrate import atftpd, dnsmasq, mini_slamd, tftpd64, tftpd_hpa
from castd.migrate.draft import Draft, OldMachine


class Read(Protocol):
    """Fills a draft from files, or from a command line."""

    def __call__(self, files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
        """
        Fill the draft.

        @param files: names of files; none: the usual one of the server.
        @param command: the command line, with the name of the program; L{None}: it is not given.
        @raise ConfigError: nothing can be made of it, such as a file that cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ConfigurationReader:
    """
    Reads the configuration of one server.

    @ivar files: the files that it is read from, for the help.
    """

    name: str
    files: str
    read: Read


READERS: Mapping[str, ConfigurationReader] = {
    each.name: each
    for each in (
        ConfigurationReader("tftpd-hpa", "/etc/default/tftpd-hpa, inetd.conf, xinetd.d/tftp, a unit", tftpd_hpa.read),
        ConfigurationReader("atftpd", "/etc/default/atftpd, inetd.conf, xinetd.d/tftp, a unit", atftpd.read),
        ConfigurationReader("dnsmasq", "/etc/dnsmasq.conf, and what it includes", dnsmasq.read),
        ConfigurationReader("tftpd64", "tftpd32.ini", tftpd64.read),
        ConfigurationReader("mini-slamd", "its command line", mini_slamd.read),
    )
}
#: tftpd64 is the same program, built for 64 bits.
ALIASES: Mapping[str, str] = {"tftpd32": "tftpd64"}


def readConfiguration(server: str, files: Sequence[str], command: str | None, machine: OldMachine) -> Draft:
    """
    Read the configuration of a server.

    @raise ConfigError: no service file can be made of it.
    """
    draft = Draft()
    READERS[ALIASES.get(server, server)].read(files, command, machine, draft)
    if not draft.content or not draft.transports:
        raise ConfigError(
            *(f"{note.place}: {note.what}; {note.advice}" for note in draft.notes), f"{server}: nothing to serve"
        )
    return draft
