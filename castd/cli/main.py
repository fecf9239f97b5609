"""
Runs the command C{castd}, with serve, check, plugins and schema; the other commands have modules of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import click
from click.shell_completion import get_completion_class
from rich.table import Table
from twisted.logger import globalLogBeginner

from castd import __version__, native
from castd.cli.check import (
    fileWarnings,
    findMissing,
    leaseWarnings,
    machineWarnings,
    permitted,
    serviceWarnings,
    summary,
    templateWarnings,
)
from castd.cli.console import addRow, makeConsole, makeTable, openClosedStreams
from castd.cli.control import reload, upgrade
from castd.cli.dhcp import dhcp43
from castd.cli.doctor import doctor
from castd.cli.explain import explain
from castd.cli.folder import PORT, UNPRIVILEGED_PORT, allAddresses, serviceFile, temporaryFile
from castd.cli.history import history
from castd.cli.importing import importCommand
from castd.cli.pxe import pxeCommand
from castd.cli.record import record
from castd.cli.status import status
from castd.cli.transfer import ICommandReactor, get, put
from castd.config import yaml
from castd.config.config import NO_WORKING_DIRECTORY, examine
from castd.config.plugin import Collected, collect
from castd.config.schema import rows, serviceFileSchema
from castd.config.warnings import warningsOf
from castd.errors import ConfigError
from castd.files.names import printable
from castd.net.ports import Ports
from castd.options import address
from castd.server.random import BufferedSystemRandom
from castd.service.bootstrap import exitStatus, prepare
from castd.service.logs import Logs, logTo
from castd.service.privileges import UnprivilegedUser
from castd.service.service import compose, kinds

#: A file that cannot be read is told as its other faults are.
_FILE = click.Path(path_type=Path, readable=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="castd", message=f"%(prog)s, version %(version)s ({native.describe()})")
def main() -> None:
    """Deliver boot files over datagrams, to one machine or a whole hall."""
    openClosedStreams()


def complain(lines: Iterable[str]) -> None:
    """Print lines to standard error: brackets in a fault are no markup, and what no terminal should get is escaped."""
    for line in lines:
        click.echo(printable(line), err=True)


def fail(error: ConfigError) -> SystemExit:
    """Print a line for each fault.  -> the exit with status 1."""
    complain(error.faults)
    return SystemExit(1)


main.add_command(doctor)
main.add_command(get)
main.add_command(put)
main.add_command(explain)
main.add_command(history)
main.add_command(record)
main.add_command(reload)
main.add_command(status)
main.add_command(upgrade)
main.add_command(dhcp43)
main.add_command(pxeCommand)
main.add_command(importCommand)


@main.command()
@click.argument("where", required=False, type=_FILE, metavar="[FILE | DIR]")
@click.option("-c", "--config", type=_FILE, help="The service file.")
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
    unprivileged = _unprivilegedUser(user, group)
    file = _oneFile(where, config)
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


def _oneFile(where: Path | None, config: Path | None) -> Path:
    """Return the file that the command line names, with or without C{-c}."""
    if (where is None) == (config is None):
        command = click.get_current_context().command_path
        raise click.UsageError(f"Which service file?  {command} FILE, or {command} -c FILE")
    return where or config or Path()


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

    reactor = cast(ICommandReactor, installed)
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


def _unprivilegedUser(user: str | None, group: str | None) -> UnprivilegedUser | None:
    """Return the user to become once the ports are bound; L{None}: the command line names none."""
    if user is None:
        if group is not None:
            raise click.UsageError("--group is that of --user: who is it?")
        return None
    try:
        return UnprivilegedUser.byName(user, group)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.argument("file", required=False, type=_FILE)
@click.option("-c", "--config", type=_FILE, help="The service file.")
def check(file: Path | None, config: Path | None) -> None:
    """Read a service file as the server would, and say what is wrong with it.  Exit status 0: it would start."""
    # MemoryReactor does nothing.  Imported here, since the import takes long.
    from twisted.internet.testing import MemoryReactorClock

    collected, reactor = collect(), MemoryReactorClock()
    path = _oneFile(file, config)
    try:
        found = examine(yaml.read(path), path, kinds(collected))
        findMissing(found)
        server = compose(found, collected, reactor, Ports(reactor, BufferedSystemRandom()))
    except ConfigError as error:
        raise fail(ConfigError(*error.faults, *collected.faults)) from None
    told = (
        *warningsOf(found),
        *fileWarnings(server),
        *templateWarnings(found),
        *leaseWarnings(found),
        *serviceWarnings(server),
        *machineWarnings(found),
        *collected.faults,
    )
    complain(f"warning: {each}" for each in told)
    makeConsole().print(summary(server))


@main.command()
@click.argument("name", required=False)
def plugins(name: str | None) -> None:
    """List what can be named in a service file; with NAME, its options."""
    collected = collect()
    complain(f"warning: {fault}" for fault in collected.faults)
    makeConsole().print(_optionsOf(collected, name) if name else _makers(collected))


def _makers(collected: Collected) -> Table:
    """Return a table of all transports and sources."""
    table = makeTable("name", "is a", "description")
    for word, makers in (("transport", collected.transports), ("source", collected.sources)):
        for maker in makers.values():
            addRow(table, maker.name, word, maker.description)
    return table


def _optionsOf(collected: Collected, name: str) -> Table:
    """Return a table of the options of one transport or source."""
    maker = collected.transports.get(name) or collected.sources.get(name)
    if maker is None:
        known = ", ".join([*collected.transports, *collected.sources])
        raise click.ClickException(f"nothing here is called {name}; known are {known}")
    try:
        model = maker.options
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    table = makeTable("option", "type", "default", "meaning", title=maker.description)
    for row in rows(model):
        addRow(table, *row)
    return table


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print what makes a shell complete the words of castd's commands.

    For bash: eval "$(castd completion bash)", in ~/.bashrc.
    """
    maker = get_completion_class(shell)
    if maker is None:
        raise click.ClickException(f"this version of click knows no {shell}")
    click.echo(maker(main, {}, "castd", "_CASTD_COMPLETE").source())


@main.command()
def schema() -> None:
    """Print the JSON schema of the service file, for editors."""
    try:
        click.echo(json.dumps(serviceFileSchema(kinds(collect())), indent=2))
    except ConfigError as error:
        raise fail(error) from None
