"""
Shows what happened to a machine: C{castd history}, of a running server or from its file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from datetime import datetime

import click

from castd import units
from castd.cli.control import NoServer, ask, control
from castd.files.names import printable
from castd.machines.known import plainAddress, validMac
from castd.observe.eventstore import FILE, MOST_FOUND, Found, Query, readFile

#: Where systemd's StateDirectory=castd puts the file.
DEFAULT_FILE = f"/var/lib/castd/{FILE}"


class _Duration(click.ParamType[float]):
    """A duration, as in the service file."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return units.duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _MachineName(click.ParamType[str]):
    """An address or a MAC; of anything else nothing would be found, as if the machine had never asked."""

    name = "machine"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if validMac(text) is None and plainAddress(text) is None:
            self.fail(f"{text} is neither an address nor a MAC, such as 52:54:00:66:00:10", param, ctx)
        return text


@click.command()
@control
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PATH",
    help=f"Read this file, and ask no server; without a server {DEFAULT_FILE}.",
)
@click.option("--client", type=_MachineName(), metavar="ADDRESS", help="Of this machine only: its address, or its MAC.")
@click.option("--name", metavar="PATTERN", help="Of these files only, such as '*.efi'.")
@click.option("--since", type=_Duration(), metavar="SPAN", help="Not longer ago than this: '1 h', '7 d'.")
@click.option("--failed", is_flag=True, help="Only what failed.")
@click.option("--most", type=click.IntRange(1, 100_000), default=MOST_FOUND, show_default=True, help="The latest only.")
@click.option("--json", "plain", is_flag=True, help="As lines of JSON.")
def history(
    path: str,
    file: str | None,
    client: str | None,
    name: str | None,
    since: float | None,
    failed: bool,
    most: int,
    plain: bool,
) -> None:
    """Show what happened to each machine, the oldest first: what it asked for, what it got, why it failed."""
    query = Query(client, name, None if since is None else time.time() - since, failed, most)
    found = _readFile(file, query) if file is not None else _find(path, query)
    for each in found:
        click.echo(json.dumps(each) if plain else line(each))
    if not found:
        click.echo("nothing", err=True)


def _find(path: str, query: Query) -> list[Found]:
    """
    Ask the server, or read its usual file if it does not run: what is wrong with a server that does is told, and its
    history may be elsewhere.
    """
    question = {each: getattr(query, each) for each in Query.__slots__}
    try:
        found: list[Found] = ask(path, "history", **question)["entries"]
    except NoServer:
        if not os.path.exists(DEFAULT_FILE):
            raise
        click.echo(f"castd history: no server answers, this is from {DEFAULT_FILE}", err=True)
        return _readFile(DEFAULT_FILE, query)
    return found


def _readFile(file: str, query: Query) -> list[Found]:
    try:
        return readFile(file, query)
    except sqlite3.Error as error:
        raise click.ClickException(f"{file}: {error}") from None


def line(found: Found) -> str:
    """Return a line with the local time, the message of the log, how often it came, and which machine it was."""
    when = localTime(found["time"])
    times = f" ({found['times']} times)" if found["times"] > 1 else ""
    machine = ", ".join(str(found["fields"][key]) for key in ("mac", "uuid", "arch") if key in found["fields"])
    return printable(f"{when}  {found['message']}{times}{f' [{machine}]' if machine else ''}")


def localTime(instant: str) -> str:
    """Write an instant of the server for people, in the time of this machine."""
    return datetime.fromisoformat(instant).astimezone().strftime("%Y-%m-%d %H:%M:%S")
