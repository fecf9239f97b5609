"""
C{castd status}, C{castd reload} and C{castd upgrade}: a question to a running server over its control socket.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

#: Where systemd's RuntimeDirectory=castd puts it.
USUAL = "/run/castd/control"
#: Seconds to wait for the answer; a reload reads and checks everything first.
PATIENCE = 60.0


def _where() -> str:
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return str(Path(folder) / "control") if folder else USUAL


def ask(path: str, what: str) -> dict[str, Any]:
    """@raise click.ClickException: nobody answers there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
            asker.settimeout(PATIENCE)
            asker.connect(path)
            asker.sendall(json.dumps({"do": what}).encode() + b"\n")
            with asker.makefile("rb") as answer:
                found: dict[str, Any] = json.loads(answer.readline())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: no answer: {error}") from None
    if "error" in found:
        raise click.ClickException(str(found["error"]))
    return found


def _control(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--control", "path", metavar="PATH", default=_where, help=f"The server's control socket; {USUAL} if not given."
    )(command)


@click.command()
@_control
@click.option("--json", "plain", is_flag=True, help="As JSON.")
def status(path: str, plain: bool) -> None:
    """Show what a running server is doing.  Exit status 1: it does not answer requests."""
    found = ask(path, "status")
    if plain:
        click.echo(json.dumps(found, indent=2))
    else:
        why = f", {found['unready']}" if found["unready"] and found["unready"] != found["state"] else ""
        click.echo(f"castd {found['version']}, {found['state']}{why}, {_span(found['seconds'])}, {found['file']}")
        Console().print(table(found))
    raise SystemExit(found["unready"] is not None)


def table(found: dict[str, Any]) -> Table:
    """A line for each receiver; one for a cast or an address that has none."""
    made = Table(box=None, pad_edge=False)
    for name in ("address", "transport", "kind", "name", "receiver", "blocks", "since"):
        made.add_column(name, overflow="fold", justify="right" if name in ("blocks", "since") else "left")
    for address in found["addresses"]:
        shown = address["address"] + (" (closing)" if address["retiring"] else "")
        if not address["casts"]:
            made.add_row(shown, ", ".join(address["transports"]))
        for cast in address["casts"]:
            kind = f"{cast['kind']} {cast['group']}" if cast["group"] else cast["kind"]
            row = (shown, cast["transport"], kind, str(cast["name"] or ""))
            for each in cast["receivers"]:
                blocks = f"{each['sent']}/{each['needed']}" if each["needed"] is not None else str(each["sent"])
                made.add_row(*row, each["peer"], blocks, _span(each["seconds"]))
            if not cast["receivers"]:
                made.add_row(*row)
    return made


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@click.command()
@_control
def reload(path: str) -> None:
    """
    Have a running server read its service file again.

    Exit status 1: the file has faults, which are shown, and the server goes on as it was.
    """
    _answer(ask(path, "reload"))


def _answer(found: dict[str, Any]) -> None:
    for fault in found["faults"]:
        click.echo(fault, err=True)
    raise SystemExit(not found["ok"])


@click.command()
@_control
def upgrade(path: str) -> None:
    """
    Have a new process take over from a running server, with the code and the service file that there are now.

    No request is refused or lost; the old process ends its transfers and leaves.  Exit status 1: the new one could not
    start, for the reasons shown, and the server goes on as it was.
    """
    found = ask(path, "upgrade")
    if found["ok"]:
        click.echo(f"Taken over from {found['pid']}, which still serves {found['rest']} transfers.")
    _answer(found)
