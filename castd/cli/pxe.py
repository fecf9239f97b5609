"""
Shows what a machine would be told to boot, for C{castd pxe}.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import click
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet

from castd.cli.service_file import FILE
from castd.cli.transfer import ICommandReactor
from castd.config.plugin import collect
from castd.errors import ConfigError
from castd.net.ports import Ports
from castd.packets import dhcp, pxe
from castd.proxydhcp.answers import Answer
from castd.proxydhcp.options import NUMBERS, Options, architectureNumbers, machinePatterns
from castd.proxydhcp.requests import ACCESS, CLASS, FOREIGN, LIMIT, MISSING, NETWORK, RULE, Silence
from castd.proxydhcp.service import ProxyDhcp
from castd.request import Local, hostPort
from castd.server.random import BufferedSystemRandom
from castd.service.service import Server, compose, read

_REASONS = {
    CLASS: "it is no PXE client",
    NETWORK: "it is in none of the networks that are answered",
    ACCESS: "the access rules do not give it the file",
    RULE: "no rule matches",
    MISSING: "the file is not there",
    LIMIT: "the answer is longer than it takes",
    FOREIGN: "it asks another server",
}


def _mac(context: click.Context, parameter: click.Parameter, value: str) -> bytes:
    try:
        (pattern,) = machinePatterns(value)
        return bytes.fromhex(pattern.replace(":", ""))
    except ValueError:
        raise click.BadParameter("write it as 52:54:00:66:00:10") from None


def _architecture(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        return architectureNumbers(value)[0]
    except ValueError as error:
        raise click.BadParameter(f"{error}; known are {', '.join(NUMBERS)}") from None


def _uuid(context: click.Context, parameter: click.Parameter, value: str | None) -> bytes:
    """Return option 97 for a UUID, whose first three fields have their low octet first there; empty: there is none."""
    if value is None:
        return b""
    try:
        fields = [bytes.fromhex(field) for field in value.split("-")]
    except ValueError:
        fields = []
    if list(map(len, fields)) != [4, 2, 2, 2, 6]:
        raise click.BadParameter("write it as 00112233-4455-6677-8899-aabbccddeeff")
    return b"\0" + b"".join(field[::-1] for field in fields[:3]) + b"".join(fields[3:])


def _xid(context: click.Context, parameter: click.Parameter, value: str) -> bytes:
    try:
        xid = bytes.fromhex(value)
    except ValueError:
        xid = b""
    if len(xid) != 4:
        raise click.BadParameter("write it as eight hexadecimal digits")
    return xid


@click.command("pxe")
@click.argument("file", type=FILE)
@click.argument("mac", callback=_mac)
@click.argument("arch", callback=_architecture)
@click.option("--ipxe", is_flag=True, help="It is iPXE, not the machine's firmware.")
@click.option("--user-class", metavar="TEXT", help="Its user class, as an own build of iPXE has.")
@click.option("--uuid", callback=_uuid, metavar="UUID", help="The UUID of the machine.")
@click.option("--relay", metavar="ADDRESS", help="The relay that passes its request on.")
@click.option("--xid", callback=_xid, default="00000000", metavar="HEX", help="The transaction ID of its request.")
def pxeCommand(
    file: Path,
    mac: bytes,
    arch: int,
    ipxe: bool,
    user_class: str | None,
    uuid: bytes,
    relay: str | None,
    xid: bytes,
) -> None:
    """
    Print what a machine with this hardware address and architecture would be told to boot.

    FILE is the service file. ARCH is a word such as bios or efi-x64, or the number of DHCP's option 93. Nothing is
    sent. Exit status 1: the machine gets no answer.
    """
    try:
        giaddr = IPv4Address(relay or 0)
    except ValueError:
        raise click.UsageError("--relay: write it as 10.0.0.1") from None
    said, features = _userClass(ipxe, user_class), pxe.IPXE_FEATURES if ipxe else None
    request = dhcp.discover(mac, arch, xid, relay=giaddr, userClass=said, features=features, uuid=uuid)
    found = _ask(file, dhcp.build(request), giaddr)
    for name, answer in found:
        if len(found) > 1:
            click.echo(f"{name}:")
        _show(answer)
    raise SystemExit(not any(isinstance(answer, Answer) for _, answer in found))


def _userClass(ipxe: bool, userClass: str | None) -> bytes:
    return userClass.encode() if userClass is not None else pxe.IPXE_CLASS if ipxe else b""


def _ask(file: Path, datagram: bytes, relay: IPv4Address) -> list[tuple[str, Answer | Silence]]:
    """Return what each proxydhcp of a service file would say, with its name."""
    from twisted.internet import reactor as installed

    reactor = cast(ICommandReactor, installed)
    try:
        ports = Ports(IReactorFDSet(installed), BufferedSystemRandom())
        collected = collect()
        server = compose(read(file, collected), collected, reactor, ports)
    except ConfigError as error:
        for fault in error.faults:
            click.echo(fault, err=True)
        raise SystemExit(1) from None
    asked = [
        (entry.name, service.options, _simulate(server, service, datagram, relay))
        for entry, service in server.portServices
        if isinstance(service, ProxyDhcp)
    ]
    if not asked:
        raise click.ClickException(f"{file} has no transport of kind proxydhcp")
    return [(name, _unrelayed(_wait(reactor, answer), options, relay)) for name, options, answer in asked]


def _simulate(server: Server, service: ProxyDhcp, datagram: bytes, relay: IPv4Address) -> Deferred[Answer | Silence]:
    interface = service.options.interface
    local = Local(interface, dhcp.SERVER_PORT, broadcast=True, networks=server.site.ports.reached(interface) or ())
    peer = (str(relay), dhcp.SERVER_PORT) if int(relay) else ("0.0.0.0", dhcp.CLIENT_PORT)
    return service.simulate(datagram, False, peer, local)


def _unrelayed(answer: Answer | Silence, options: Options, relay: IPv4Address) -> Answer | Silence:
    """Say that it is the relay that is not answered.  The server has no line for that: the others are not its own."""
    if isinstance(answer, Silence) and int(relay) and not options.relays:
        return Silence(answer.reason, "a relay has passed it on, and relays: true is not there")
    return answer


def _wait(reactor: ICommandReactor, answer: Deferred[Answer | Silence]) -> Answer | Silence:
    """Return a result that a source of content may have to be waited for."""
    found: list[Answer | Silence] = []
    answer.addCallback(found.append)
    if not answer.called:
        answer.addBoth(lambda _: reactor.stop())
        reactor.run()
    return found[0]


def _show(answer: Answer | Silence) -> None:
    if isinstance(answer, Silence):
        told = f"{answer.name}: {answer.told}" if answer.name else answer.told or _REASONS[answer.reason]
        click.echo(f"no answer: {told}")
        return
    lines = {
        "boots": answer.file or "what is chosen from a menu",
        "form": answer.form,
        "rule": str(answer.rule),
        "to": hostPort(answer.to),
        "octets": answer.datagram.hex(),
    }
    for name, value in lines.items():
        click.echo(f"{name + ':':<8}{value}")
