"""
Turns the configuration of another server into a service file, for C{castd import}.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import click

from castd.cli.folder import allAddresses
from castd.errors import ConfigError
from castd.files.names import printable
from castd.migrate.draft import Draft, ImportNote, OldMachine
from castd.migrate.readers import ALIASES, READERS, readConfiguration
from castd.migrate.writer import write
from castd.net.devices import Interfaces, addresses

#: Exit status: there is a service file, and some of the configuration is not in it.
INCOMPLETE = 3


def _interface(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, IPv4Interface]:
    found = {}
    for value in values:
        name, _, address = value.partition("=")
        try:
            found[name] = IPv4Interface(address)
        except ValueError:
            raise click.BadParameter("write it as eth0=10.0.0.5/24") from None
    return found


@click.command("import")
@click.argument("server", type=click.Choice([*READERS, *ALIASES]))
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--command", metavar="LINE", help="The command line that the server is started with, its name included.")
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    callback=_interface,
    metavar="NAME=ADDRESS/LENGTH",
    help="An interface of the machine that the configuration is for, if it is not this one.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="The folder that absolute paths of its configuration files begin at.",
)
@click.option("--json", "asJson", is_flag=True, help="Print the service file, its values and the notes as JSON.")
def importCommand(
    server: str,
    files: tuple[str, ...],
    command: str | None,
    interfaces: dict[str, IPv4Interface],
    root: Path,
    asJson: bool,
) -> None:
    """
    Print the service file that does what another server's configuration says.

    FILE is where the configuration stands; without one, where it usually is. What is not carried over is told on
    standard error, with its line and what to do. Exit status 0: all is carried over; 3: some is not; 1: there is no
    service file. Nothing is changed, and nothing is started.
    """
    machine = OldMachine(interfaces or _ownInterfaces(), "::" in allAddresses(), root, partial(_stores, root))
    try:
        draft = readConfiguration(server, files, command, machine)
    except ConfigError as error:
        for fault in error.faults:
            click.echo(printable(fault), err=True)
        raise SystemExit(1) from None
    title = [f"Made by castd import from the configuration of {server}.  Check it with: castd check FILE"]
    text = write(draft, title)
    if asJson:
        click.echo(json.dumps(_asJson(draft, text), indent=2))
    else:
        click.echo(text, nl=False)
        for note in draft.notes:
            click.echo(show(note), err=True)
    if any(note.lost for note in draft.notes):
        raise SystemExit(INCOMPLETE)


def show(note: ImportNote) -> str:
    """Write a note on one line."""
    text = f"{note.place}: {'not carried over' if note.lost else 'note'}: {note.what}; {note.advice}"
    return printable(" ".join(text.split()))


def _asJson(draft: Draft, text: str) -> dict[str, object]:
    notes = [
        {"file": note.place.file, "line": note.place.line, "lost": note.lost, "what": note.what, "advice": note.advice}
        for note in draft.notes
    ]
    return {"file": text, "service": draft.value, "notes": notes}


def _ownInterfaces() -> dict[str, IPv4Interface]:
    """Return the first IPv4 address of each interface of this machine, with its network."""
    found: dict[str, IPv4Interface] = {}
    reach = Interfaces()
    for address, device in addresses().items():
        networks = reach.reached(address) or ()
        length = next((each.prefixlen for each in networks if IPv4Address(address) in each), 32)
        found.setdefault(device, IPv4Interface(f"{address}/{length}"))
    return found


def _stores(root: Path, path: str, user: str) -> bool | None:
    """Return whether a user may write to a directory; L{None}: that is not known."""
    try:
        status = (root / path.lstrip("/")).stat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    if status.st_mode & stat.S_IWOTH:
        return True
    with suppress(KeyError):
        account = pwd.getpwnam(user)
        if status.st_uid == account.pw_uid:
            return bool(status.st_mode & stat.S_IWUSR)
        if status.st_gid in os.getgrouplist(user, account.pw_gid):
            return bool(status.st_mode & stat.S_IWGRP)
    return False
