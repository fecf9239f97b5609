"""
Looks for what keeps a server from serving, on its machine and around it: C{castd doctor}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from castd import __version__
from castd.cli.control import ask, control
from castd.cli.seconds import SecondsRange
from castd.cli.service_file import FILE, namedUser
from castd.config import yaml
from castd.config.config import Config, examine
from castd.config.plugin import Collected, collect
from castd.doctor.examine import runChecks
from castd.doctor.findings import Finding, Subject
from castd.doctor.kernel import userOf
from castd.doctor.machine import IMachine, ThisMachine
from castd.errors import ConfigError
from castd.files.names import printable
from castd.interfaces import IPortService, ServicePort
from castd.net.ports import Ports
from castd.options import ListenOptions
from castd.proxydhcp.options import Options as ProxyDhcpOptions
from castd.server.random import BufferedSystemRandom
from castd.server.site import Site
from castd.service.privileges import UnprivilegedUser
from castd.service.service import kinds

#: Seconds that a running server has for its answer.
_PATIENCE = 3.0
#: The width of the columns with the verdict and the name of the check.
_WIDTHS = (9, 11)


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("-c", "--config", "named", type=FILE, help="The service file.")
@control
@click.option("--user", metavar="NAME", help="Who serves, a name or a number; the user of the running server.")
@click.option("--group", metavar="NAME", help="His group, if not the first one of his.")
@click.option(
    "--listen",
    type=SecondsRange(0, 600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to listen for an IGMP querier; most ask every 125 s.",
)
@click.option(
    "--probe", is_flag=True, help="Ask as machines that boot do: a DHCPDISCOVER is broadcast on each interface."
)
@click.option("--json", "plain", is_flag=True, help="As JSON.")
def doctor(
    file: Path | None,
    named: Path | None,
    path: str,
    user: str | None,
    group: str | None,
    listen: float,
    probe: bool,
    plain: bool,
) -> None:
    """
    Find out what on this machine, and around it, keeps a service file from being served.

    Without FILE that of the running server. It changes nothing, and serves beside a running server; the network sees a
    membership report for each group. Exit status: 0 nothing wrong was found; 1 there is a problem; 2 wrong usage.
    """
    machine = ThisMachine()
    if file is not None and named is not None:
        raise click.UsageError("FILE and --config are the same: give one of them")
    found, pid = _fileAndServer(file or named, path)
    config, ports, faults = _read(found)
    results = [("file", _fileFindings(found, faults))]
    if config is not None:
        if pid is None:
            pid = _serverOf(found, *([] if config.control.path is None else [str(config.control.path)]), path)
        results += runChecks(Subject(config, _user(user, group, pid, machine), pid, listen, probe, ports), machine)
    _show(found, pid, results, plain)
    raise SystemExit(any(each.verdict == "problem" for _, findings in results for each in findings))


def _fileAndServer(file: Path | None, control: str) -> tuple[Path, int | None]:
    """Return the service file to look at, and the server that has it in force if it was asked for the file."""
    if file is not None:
        return file, None
    try:
        status = ask(control, "status", _PATIENCE)
    except click.ClickException as error:
        raise click.UsageError(f"Which service file?  castd doctor FILE; no server runs: {error.message}") from None
    return Path(str(status["file"])), int(status["pid"])


def _serverOf(file: Path, *controls: str) -> int | None:
    """Return the process that serves this file, if one of these control sockets is its."""
    for each in controls:
        try:
            status = ask(each, "status", _PATIENCE)
        except click.ClickException:
            continue
        if Path(str(status["file"])) == file.absolute():
            return int(status["pid"])
    return None


def _read(file: Path) -> tuple[Config | None, Sequence[tuple[str, ServicePort]], Sequence[str]]:
    """
    Read a service file as far as it has no faults.

    @return: it, the ports of the services that plugins bring, and its faults; L{None}: nothing of it could be read.
    """
    collected = collect()
    try:
        config = examine(yaml.read(file), file, kinds(collected))
    except ConfigError as error:
        return None, (), error.faults
    ports = list(_servicePorts(config, collected))
    try:
        config.tree.raiseFaults()
    except ConfigError as error:
        return config, ports, (*error.faults, *collected.faults)
    return config, ports, collected.faults


def _servicePorts(config: Config, collected: Collected) -> Iterator[tuple[str, ServicePort]]:
    """Return the ports of services that plugins bring; one that cannot be made becomes a fault of the service file."""
    # MemoryReactor does nothing.  Imported here, since the import takes long.
    from twisted.internet.testing import MemoryReactorClock

    reactor, random = MemoryReactorClock(), BufferedSystemRandom()
    site = Site(reactor, random, Ports(reactor, random), config.limits)
    for entry in config.transports:
        # What these bind is known by their options, also of one that cannot be made here.
        if isinstance(entry.options, ListenOptions | ProxyDhcpOptions):
            continue
        try:
            made = collected.transports[entry.kind].makeTransport(entry.name, entry.options, site)
            yield from ((entry.name, at) for at in (made.ports if IPortService.providedBy(made) else ()))
        except ConfigError as error:
            for fault in error.faults:
                entry.addFault(fault)
        except Exception as error:
            # The other checks are as good without it.
            entry.addFault(f"it cannot be made: {error!r}")


def _fileFindings(file: Path, faults: Sequence[str]) -> list[Finding]:
    if not faults:
        return [Finding("fine", f"{file} can be read; castd check looks at more of it")]
    return [Finding("problem", fault, "castd check") for fault in faults]


def _user(name: str | None, group: str | None, pid: int | None, machine: IMachine) -> UnprivilegedUser | None:
    """Return the user who serves: the one named, or that of the running server; else L{None}."""
    named = namedUser(name, group)
    return userOf(machine, str(pid)) if named is None and pid is not None else named


def _show(file: Path, pid: int | None, results: Sequence[tuple[str, list[Finding]]], plain: bool) -> None:
    if not plain:
        for line in _lines(results):
            click.echo(line)
        return
    findings = [{"check": name, **each._asdict()} for name, found in results for each in found]
    click.echo(json.dumps({"version": __version__, "file": str(file), "pid": pid, "findings": findings}, indent=2))


def _lines(results: Sequence[tuple[str, list[Finding]]]) -> Iterator[str]:
    """Return a line for each finding, and one below it for its cure."""
    for name, found in results:
        for each in found:
            yield printable(f"{each.verdict:<{_WIDTHS[0]}}  {name:<{_WIDTHS[1]}}  {each.what}")
            if each.cure:
                yield printable(f"{'':<{sum(_WIDTHS) + 4}}→ {each.cure}")
