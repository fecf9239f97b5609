"""
Reads the arguments that name a service file and who serves it, and prints what is wrong with that file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from castd.errors import ConfigError
from castd.files.names import printable
from castd.service.privileges import UnprivilegedUser

#: A file that cannot be read is told as its other faults are.
FILE = click.Path(path_type=Path, readable=False)


def namedFile(where: Path | None, config: Path | None) -> Path:
    """Return the file that the command line names, with or without C{-c}."""
    if (where is None) == (config is None):
        command = click.get_current_context().command_path
        raise click.UsageError(f"Which service file?  {command} FILE, or {command} -c FILE")
    return where or config or Path()


def namedUser(user: str | None, group: str | None) -> UnprivilegedUser | None:
    """Return the user whom C{--user} and C{--group} name; L{None}: they name none."""
    if user is None:
        if group is not None:
            raise click.UsageError("--group is that of --user: who is it?")
        return None
    try:
        return UnprivilegedUser.byName(user, group)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def complain(lines: Iterable[str]) -> None:
    """Print lines to standard error: brackets in a fault are no markup, and what no terminal should get is escaped."""
    for line in lines:
        click.echo(printable(line), err=True)


def fail(error: ConfigError) -> SystemExit:
    """Print a line for each fault.  -> the exit with status 1."""
    complain(error.faults)
    return SystemExit(1)
