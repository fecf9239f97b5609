"""
Asks a running server over its control socket; the commands C{castd reload} and C{castd upgrade}.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    # The whole server would be imported to ask another one.
    from castd.service.service import ReloadAnswer
    from castd.upgrade.handover import UpgradeAnswer

#: Where systemd's RuntimeDirectory=castd puts the control socket.
DEFAULT_PATH = "/run/castd/control"
#: Seconds to wait for the answer; a reload reads and checks everything first.
TIMEOUT = 60.0

_NOT_HERE = "castd does not run, or its socket is elsewhere (--control PATH)"
#: What to do where no server answers, by the kind of fault.
_CURES: dict[type[Exception], str] = {
    FileNotFoundError: _NOT_HERE,
    ConnectionRefusedError: _NOT_HERE,
    PermissionError: "ask as root, or as the user that castd runs as",
}


class NoServer(click.ClickException):
    """Nobody listens at a control socket."""


_Command = TypeVar("_Command", bound=Callable[..., object])


def _defaultPath() -> str:
    """
    Return the control socket of a server in the same unit of systemd, or of one that C{scripts/start} has started in
    the same virtual environment, or else the usual path.
    """
    if folder := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return str(Path(folder) / "control")
    own = Path(sys.prefix, "run", "control")
    try:
        os.stat(own)
    except (FileNotFoundError, NotADirectoryError):
        return DEFAULT_PATH
    except OSError:
        # Another user's server, most likely: whoever asks it is told why he may not.
        pass
    return str(own)


def ask(path: str, command: str, seconds: float = TIMEOUT, /, **about: object) -> Any:
    """
    Send a command to the server with this control socket.

    @param seconds: how long the answer is waited for.
    @param about: what the command is about.
    @return: the answer of the server, parsed from JSON.
    @raise NoServer: nobody listens at that socket.
    @raise click.ClickException: no server answers there, or it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
            connection.sendall(json.dumps({"do": command, **about}).encode() + b"\n")
            with connection.makefile("rb") as answer:
                found = json.loads(answer.readline())
    except (OSError, ValueError) as error:
        cure = _CURES.get(type(error))
        why = getattr(error, "strerror", None) or error
        kind = NoServer if cure == _NOT_HERE else click.ClickException
        raise kind(f"{path}: no answer: {why}{f': {cure}' if cure else ''}") from None
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
        help="The server's control socket; if not given, that of a server in the same unit of systemd, or of "
        f"scripts/start in the same checkout, or {DEFAULT_PATH}.",
    )(command)


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

    No request is refused or lost; the old process finishes its transfers and exits.  Exit status 1: the new one could
    not start, for the reasons shown, and the server goes on as it was.
    """
    answer: UpgradeAnswer = ask(path, "upgrade")
    if answer["ok"]:
        click.echo(f"Taken over from {answer['pid']}, which still serves {answer['rest']} transfers.")
    _exit(answer)
