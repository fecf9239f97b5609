"""
Sends C{castd status}, C{castd reload} and C{castd upgrade} to a running server over its control socket.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click
from rich.table import Table

from castd.cli.console import addRow, makeConsole, makeTable
from castd.files.names import printable
from castd.observe.status import AddressStatus
from castd.service.service import ReloadAnswer
from castd.upgrade.handover import UpgradeAnswer

#: Where systemd's RuntimeDirectory=castd puts the control socket.
DEFAULT_PATH = "/run/castd/control"
#: Seconds to wait for the answer; a reload reads and checks everything first.
TIMEOUT = 60.0

_Command = TypeVar("_Command", bound=Callable[..., object])


class ServerStatus(TypedDict):
    """The part of the answer to C{status} that the table shows; C{--json} shows all of the answer."""

    version: str
    state: str
    unready: str | None
    seconds: float
    file: str
    addresses: list[AddressStatus]


def _defaultPath() -> str:
    """
    Return the control socket of a server in the same unit of systemd, or of one that C{scripts/start} has started in
    the same virtual environment, or else the usual path.
    """
    if folder := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return str(Path(folder) / "control")
    own = Path(sys.prefix, "run", "control")
    return str(own) if own.exists() else DEFAULT_PATH


def ask(path: str, command: str, **about: object) -> Any:
    """
    Send a command to the server with this control socket.

    @param about: what the command is about.
    @return: the answer of the server, parsed from JSON.
    @raise click.ClickException: no server answers at that socket.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(path)
            connection.sendall(json.dumps({"do": command, **about}).encode() + b"\n")
            with connection.makefile("rb") as answer:
                found = json.loads(answer.readline())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: no answer: {error}") from None
    if "error" in found:
        raise click.ClickException(str(found["error"]))
    return found


def control(command: _Command) -> _Command:
    """Add the option that names the control socket."""
    return click.option(
        "--control",
        "path",
        metavar="PATH",
        default=_defaultPath,
        help=f"The server's control socket; {DEFAULT_PATH} if not given.",
    )(command)


@click.command()
@control
@click.option("--json", "plain", is_flag=True, help="As JSON.")
def status(path: str, plain: bool) -> None:
    """Show what a running server is doing.  Exit status 1: it does not answer requests."""
    found: ServerStatus = ask(path, "status")
    if plain:
        click.echo(json.dumps(found, indent=2))
    else:
        why = f", {found['unready']}" if found["unready"] and found["unready"] != found["state"] else ""
        head = f"castd {found['version']}, {found['state']}{why}, {_span(found['seconds'])}, {found['file']}"
        click.echo(printable(head))
        makeConsole().print(table(found))
    raise SystemExit(found["unready"] is not None)


def table(found: ServerStatus) -> Table:
    """Return a table with a line for each receiver, and one for each cast or address without receivers."""
    columns = ("address", "transport", "kind", "name", "receiver", "blocks", "since")
    made = makeTable(*columns, right=("blocks", "since"))
    for address in found["addresses"]:
        shown = address["address"] + (" (closing)" if address["retiring"] else "")
        if not address["casts"]:
            addRow(made, shown, ", ".join(address["transports"]))
        for cast in address["casts"]:
            kind = f"{cast['kind']} {cast['group']}" if cast["group"] else cast["kind"]
            row = (shown, cast["transport"], kind, cast["name"])
            for each in cast["receivers"]:
                blocks = f"{each['sent']}/{each['needed']}" if each["needed"] is not None else str(each["sent"])
                addRow(made, *row, each["peer"], blocks, _span(each["seconds"]))
            if not cast["receivers"]:
                addRow(made, *row)
    return made


def _span(seconds: float | None) -> str:
    """Return a duration as C{4:05} or C{3:04:05}."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@click.command()
@control
def reload(path: str) -> None:
    """
    Have a running server read its service file again.

    Exit status 1: the file has faults, which are shown, and the server goes on as it was.
    """
    answer: ReloadAnswer = ask(path, "reload")
    _exit(answer)


def _exit(answer: ReloadAnswer | UpgradeAnswer) -> None:
    """Show the faults, and exit with status 1 if the command has failed."""
    for fault in answer["faults"]:
        click.echo(fault, err=True)
    raise SystemExit(not answer["ok"])


@click.command()
@control
def upgrade(path: str) -> None:
    """
    Have a new process take over from a running server, with the code and the service file that there are now.

    No request is refused or lost; the old process ends its transfers and leaves.  Exit status 1: the new one could not
    start, for the reasons shown, and the server goes on as it was.
    """
    answer: UpgradeAnswer = ask(path, "upgrade")
    if answer["ok"]:
        click.echo(f"Taken over from {answer['pid']}, which still serves {answer['rest']} transfers.")
    _exit(answer)
