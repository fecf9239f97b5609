"""
Runs C{castd check}: reads a service file, and says what is wrong with it and what this machine lacks for it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import click
from rich.table import Table

from castd.cli.console import addRow, makeConsole, makeTable
from castd.cli.service_file import FILE, complain, fail, namedFile
from castd.config import yaml
from castd.config.config import RUNTIME, Config, examine, listening, ownFiles
from castd.config.plugin import collect
from castd.config.schema import showValue
from castd.config.warnings import warningsOf
from castd.config.yaml import Route
from castd.errors import ConfigError, NotFound
from castd.files.directory import patience
from castd.files.permission import whyNot, writeFault
from castd.interfaces import ServicePort
from castd.machines.lease_file import LeaseFile
from castd.machines.leases import FORMATS
from castd.machines.options import LeaseFileOptions
from castd.net import devices
from castd.net.ports import Ports
from castd.net.sockets import bindFails
from castd.observe import journal
from castd.options import UNPRIVILEGED, HostPort
from castd.server.random import BufferedSystemRandom
from castd.service.endpoints import boundTo
from castd.service.service import Server, compose, kinds
from castd.templates.source import Options as TemplateOptions

#: The routes of the files that are local sockets.
_SOCKETS: tuple[Route, ...] = (("control", "path"), ("metrics", "listen"))


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("-c", "--config", type=FILE, help="The service file.")
def check(file: Path | None, config: Path | None) -> None:
    """Read a service file as the server would, and say what is wrong with it.  Exit status 0: it would start."""
    # MemoryReactor does nothing.  Imported here, since the import takes long.
    from twisted.internet.testing import MemoryReactorClock

    collected, reactor = collect(), MemoryReactorClock()
    path = namedFile(file, config)
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


def summary(server: Server) -> Table:
    """Return a table of the transports of the server, in the order in which requests are offered to them."""
    table = makeTable("address", "transport", "kind", "options")
    # A service may have several ports; its options are shown once.
    shown: set[str] = set()
    for each in server.addresses:
        for entry in each.entries:
            others = entry.options.model_dump(mode="json", exclude_unset=True, exclude={"port", "interface"})
            values = [f"{key}: {showValue(value)}" for key, value in others.items() if entry.name not in shown]
            shown.add(entry.name)
            addRow(table, each.address, entry.name, entry.kind, ", ".join(values))
    for name, (where, _) in server.admin.endpoints(server.config).items():
        addRow(table, where, "", name)
    return table


def findMissing(config: Config) -> None:
    """Record a fault for each address, folder and file that cannot be had here: the server would not start."""
    for route, host, _, kind in _ports(config):
        failed = _bind(host, 0, kind)
        if failed == errno.EADDRNOTAVAIL:
            config.tree.addFault(route, f"no interface of this machine has the address {host}")
        elif failed:
            # Such as EAFNOSUPPORT: the kernel was told to do without IPv6.
            config.tree.addFault(route, f"{host or 'any address'}: {os.strerror(failed)}")
    for route, file in _files(config):
        if not _madeAtStart(file.parent) and (fault := _unusable(file, route)) is not None:
            config.tree.addFault(route, fault)
    if config.logging.format == "journal" and config.logging.file is None and not os.path.exists(journal.SOCKET):
        config.tree.addFault(("logging", "format"), f"the journal is not there: no {journal.SOCKET}")


def machineWarnings(config: Config) -> Iterator[str]:
    """Return warnings of what may differ for the server: another user, another moment."""
    for route, file in _files(config):
        if (why := _unwritable(file.parent)) is not None and _madeAtStart(file.parent):
            yield f"{config.tree.where(route)}: {file.parent}: {why} yet; systemd's RuntimeDirectory= makes it"
    shown = Path(UNPRIVILEGED)
    first = int(shown.read_text()) if shown.exists() else 1024
    for route, host, port, kind in _ports(config):
        failed = _bind(host, port, kind)
        if failed == errno.EADDRINUSE:
            yield f"{config.tree.where(route)}: port {port} is taken now, by a castd that runs or another program"
        elif failed == errno.EACCES:
            yield f"{config.tree.where(route)}: port {port} is below {first}: this user may not have it"


def serviceWarnings(server: Server) -> Iterator[str]:
    """Return the warnings of services, and of their ports that cannot be had now."""
    yield from server.warnings()
    for entry, service in server.portServices:
        # One warning for a port at several addresses.
        for why in dict.fromkeys(_whyNoPort(each) for each in service.ports if each.required):
            if why:
                yield entry.describe(why)


def _whyNoPort(wanted: ServicePort) -> str:
    """
    Return why the port of a service cannot be had now, as the server would open it; C{""}: it can.

    A group is not tried: to bind to it is to join it, which the network sees, and others may have it as well.
    """
    shared, _, address = wanted.host.partition("%")
    if address and devices.isShared(shared) and shared != devices.BROADCAST:
        return ""
    failed = bindFails(wanted.host, wanted.port)
    if failed == errno.EACCES:
        return f"port {wanted.port} is a privileged one: this user may not have it"
    if failed == errno.EADDRINUSE:
        remedy = f"; {wanted.remedy}" if wanted.remedy else ""
        return f"port {wanted.port} is taken now, by a castd that runs or another program{remedy}"
    if failed == errno.EADDRNOTAVAIL:
        return f"no interface of this machine has the address {devices.ownAddress(wanted.host)}"
    return f"port {wanted.port}: {os.strerror(failed)}" if failed else ""


def fileWarnings(server: Server) -> Iterator[str]:
    """Return a warning for each file that a transport names and that nobody would get now."""
    site = server.site
    for entry, options in listening(server.config):
        networks = getattr(options, "clients", None) or (IPv4Network("0.0.0.0/0"),)
        for key, name in options.named():
            refusal = site.missingNow(name, networks, patience(site))
            if refusal is not None:
                why = "is not there" if isinstance(refusal, NotFound) else f"is refused to everybody: {refusal}"
                yield entry.describe(f"{key}: {name} {why}: who asks for it is not served")


def templateWarnings(config: Config) -> Iterator[str]:
    """
    Return a warning for each fault of a template or its inventory, by its place there: the server starts with it, and a
    machine that asks gets an ERROR until it is mended.
    """
    for entry in config.content:
        if isinstance(entry.options, TemplateOptions):
            # Imported here: who has no templates need not have Jinja.
            from castd.templates.checks import templateFaults

            inventory = entry.options.inventory
            yield from templateFaults(str(entry.options.file), None if inventory is None else str(inventory))


def leaseWarnings(config: Config) -> Iterator[str]:
    """Return a warning for each lease file that no machine is known by: the server starts, and reads it when asked."""
    for number, options in enumerate(config.machines.leases):
        try:
            fault = _leaseFault(options)
        except OSError as error:
            fault = error.strerror or "it cannot be read"
        if fault:
            where = config.tree.where(("machines", "leases", number, "path"))
            yield f"{where}: {options.path}: {fault}: machines are not known by it"


def _leaseFault(options: LeaseFileOptions) -> str:
    """Return why no machine is known by a lease file; C{""}: some are, or may be later.  @raise OSError: see there."""
    if not stat.S_ISREG(options.path.stat().st_mode):
        return "not a regular file"
    if LeaseFile(options).read():
        return ""
    others = (options.model_copy(update={"format": each}) for each in FORMATS if each != options.format)
    return next((f"its format is {each.format}, not {options.format}" for each in others if LeaseFile(each).read()), "")


def _files(config: Config) -> Iterator[tuple[Route, Path]]:
    """Return each file or socket that the server makes, and its route in the service file."""
    for route, path in ownFiles(config):
        yield route, path / "a capture" if route[0] == "recorder" else path


def _unusable(file: Path, route: Route) -> str | None:
    """Return the reason why the server could not have a file of its own, with its path; L{None}: it could."""
    try:
        return _inTheWay(file, route)
    except OSError as error:
        # The path is too long, or this user may not look there.
        return f"{file}: {error.strerror}"


def _inTheWay(file: Path, route: Route) -> str | None:
    """As L{_unusable}.  @raise OSError: it cannot be found out."""
    try:
        # Path.exists and its like say no since Python 3.14 where this raises.
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        return f"{file}: is a folder"
    if route in _SOCKETS:
        if mode is not None and not stat.S_ISSOCK(mode):
            return f"{file}: is there, and no socket: remove it"
    elif mode is not None and (fault := writeFault(file, os.W_OK)):
        return f"{file}: {whyNot(fault, 'this user may not write it')}"
    if route[0] == "logging" and mode is not None:
        return None  # it is appended to; only a new one needs its folder
    why = _unwritable(file.parent)
    return None if why is None else f"{file.parent}: {why}"


def _unwritable(folder: Path) -> str | None:
    """Return the reason why no file can be made in a folder; L{None}: one can be made."""
    if not os.path.isdir(folder):
        return "no such folder"
    fault = writeFault(folder, os.W_OK | os.X_OK)
    return whyNot(fault, "this user may not write there") if fault else None


def _madeAtStart(folder: Path) -> bool:
    return RUNTIME in folder.parents and not os.path.exists(folder)


def _ports(config: Config) -> Iterator[tuple[Route, str, int, socket.SocketKind]]:
    """Return each port that would be bound: its route in the service file, its address, number and kind."""
    for entry, options in listening(config):
        yield entry.route, options.interface, options.port, socket.SOCK_DGRAM
    try:
        at = None if config.metrics.listen is None else boundTo(config.metrics.listen)
    except (ValueError, ImportError):
        return  # that is told by what makes the server
    if isinstance(at, HostPort):
        yield ("metrics", "listen"), at.host, at.port, socket.SOCK_STREAM


def permitted(port: int) -> bool:
    """Return whether this process may bind this UDP port; one that is taken counts as permitted."""
    return _bind("", port, socket.SOCK_DGRAM) != errno.EACCES


def _bind(host: str, port: int, kind: socket.SocketKind) -> int:
    """
    Bind a socket as the server does, for a moment.

    @param port: 0: any.
    @return: the C{errno} of the failure; 0: it could be bound.
    """
    if kind == socket.SOCK_DGRAM:
        failed = bindFails(host, port)
        # The zone of a link-local address is the name of an interface that is not there.
        return errno.EADDRNOTAVAIL if failed == errno.ENODEV else failed
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host or "0.0.0.0", port, type=kind, flags=socket.AI_PASSIVE)
        with socket.socket(family, kind) as probe:
            # Connections that have just ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        # Nobody knows the name of a host, as the metrics may have it in an endpoint of Twisted.
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EIO
    return 0
