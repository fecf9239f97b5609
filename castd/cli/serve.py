"""
Runs C{castd serve}: serves in the foreground.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

import click
from twisted.internet.interfaces import IReactorCore
from twisted.logger import globalLogBeginner

from castd.cli.check import permitted
from castd.cli.folder import PORT, UNPRIVILEGED_PORT, allAddresses, serviceFile, temporaryFile
from castd.cli.service_file import FILE, complain, namedFile, namedUser
from castd.config.config import NO_WORKING_DIRECTORY
from castd.errors import ConfigError
from castd.options import address
from castd.service.bootstrap import exitStatus, prepare
from castd.service.logs import Logs, logTo
from castd.service.privileges import UnprivilegedUser


@click.command()
@click.argument("where", required=False, type=FILE, metavar="[FILE | DIR]")
@click.option("-c", "--config", type=FILE, help="The service file.")
@click.option("--user", metavar="NAME", help="Who to be once the ports are bound; a name or a number.")
@click.option("--group", metavar="NAME", help="His group, if not the first one of his.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of a directory: its port; 69, or 6969 without the right.")
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Of a directory: where to listen; all if not given.")
@click.option("--writable", is_flag=True, help="Of a directory: uploads are stored there, and replace files.")
def serve(
    where: Path | None,
    config: Path | None,
    user: str | None,
    group: str | None,
    port: int | None,
    listen: tuple[str, ...],
    writable: bool,
) -> None:
    """
    Serve in the foreground, until interrupted: what a service file says, or one directory.

    A directory is served by TFTP to everybody; the service file that this stands for is printed.
    """
    unprivileged = namedUser(user, group)
    file = namedFile(where, config)
    # With -c a folder is a mistake: who leaves out the name of the file in it does not mean to give it to everybody.
    if config is not None or not os.path.isdir(file):
        if port is not None or listen or writable:
            raise click.UsageError(f"--port, --listen and --writable are for a directory; {file} is none")
        _serve(file, unprivileged)
        return
    text = _folderServiceFile(file, port, listen, writable)
    click.echo(text)
    sys.stdout.flush()
    with temporaryFile(text) as made:
        _serve(made, unprivileged)


def _folderServiceFile(folder: Path, port: int | None, listen: tuple[str, ...], writable: bool) -> str:
    """Return the service file of a directory."""
    if port is None:
        port = PORT if permitted(PORT) else UNPRIVILEGED_PORT
    try:
        addresses = [address(each) for each in listen] or allAddresses()
        return serviceFile(folder.absolute(), port, list(dict.fromkeys(addresses)), writable)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except FileNotFoundError:
        raise click.UsageError(f"{folder}: {NO_WORKING_DIRECTORY}") from None


def _serve(config: Path, unprivileged: UnprivilegedUser | None) -> None:
    """Serve by this service file until interrupted."""
    # Imported here: the commands that only read a service file need no reactor.
    from twisted.internet import reactor as installed

    reactor = cast(IReactorCore, installed)
    try:
        server = prepare(config, reactor, unprivileged)
        server.logs = Logs(logTo(sys.stderr))
        with server.asEffectiveUser():
            server.logs.open(server.config)
        globalLogBeginner.beginLoggingTo([server.logs], redirectStandardIO=False)
        server.privilegedStartService()
        if unprivileged is not None:
            unprivileged.dropPrivileges()
    except ConfigError as error:
        complain(error.faults)
        raise SystemExit(exitStatus(error)) from None
    server.startService()
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    reactor.run()
