"""
Checks the ports: who holds them, who may bind them, and which other servers of this machine and its network are in
the way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Final, NamedTuple

from castd.config.config import listening
from castd.doctor.boot import OFFER_SECONDS, askedFor, dhcpServers, ownAnswers, proxyAt
from castd.doctor.findings import Finding, Subject
from castd.doctor.kernel import BoundSocket, Holder, boundSockets, collides, holders, mayBindLow, serves
from castd.doctor.machine import IMachine
from castd.net import devices
from castd.options import UNPRIVILEGED, HostPort
from castd.packets import dhcp
from castd.packets.dhcp import DhcpPacket
from castd.proxydhcp.options import Options as ProxyDhcpOptions
from castd.proxydhcp.rivals import rival
from castd.request import hostPort
from castd.service.endpoints import boundTo

#: Interfaces on which DHCP servers are asked, one after the other.
_MOST_PROBED: Final = 5
#: Seconds that another machine has to say that an address is its own.
_CLAIM_SECONDS: Final = 1.0
#: Ports of other servers for machines that boot, and what is there.
_BOOTING: Final = {67: "DHCP", 69: "TFTP", 1758: "multicast TFTP", 1759: "MTFTP", 4011: "PXE"}


class WantedPort(NamedTuple):
    """
    A port that the service file asks for.

    @ivar kind: C{udp} or C{tcp}.
    @ivar by: the transport or section that asks for it.
    @ivar remedy: what to do if another program has it; C{""}: what can be done for any port.
    """

    kind: str
    host: str
    port: int
    by: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.kind.upper()} {hostPort((self.host or 'any', self.port))} ({self.by})"


def wantedPorts(subject: Subject) -> Iterator[WantedPort]:
    """Return the ports of a service file, each once, but those that others may have, too."""
    remedies = {(at.host, at.port): at.remedy for _, at in subject.servicePorts}
    for (host, port), by in _byAddress(subject).items():
        yield WantedPort("udp", host, port, ", ".join(by), remedies.get((host, port), ""))
    if (listen := subject.config.metrics.listen) is not None:
        try:
            at = boundTo(listen)
        except (ValueError, ImportError):
            return
        if isinstance(at, HostPort):
            yield WantedPort("tcp", *at, "metrics")


def _byAddress(subject: Subject) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = {}
    for entry, options in listening(subject.config):
        found.setdefault((options.interface, options.port), []).append(entry.name)
    for entry in subject.config.transports:
        # The other port 67 hears broadcasts only, perhaps beside a DHCP server that has the port.
        if isinstance(entry.options, ProxyDhcpOptions):
            for port in (dhcp.BOOT_PORT, *((dhcp.SERVER_PORT,) if entry.options.relays else ())):
                found.setdefault((entry.options.interface, port), []).append(entry.name)
    for name, at in subject.servicePorts:
        shared, _, address = at.host.partition("%")
        if at.required and not (address and devices.isShared(shared)):
            found.setdefault((at.host, at.port), []).append(name)
    return found


def _broadcastPorts(subject: Subject) -> Iterator[WantedPort]:
    """Return the ports at which broadcasts are heard, perhaps beside another program; the host is the own address."""
    for entry in subject.config.transports:
        if isinstance(entry.options, ProxyDhcpOptions) and entry.options.port67:
            cure = "have that program share it (dnsmasq: bind-interfaces), or port-67: false with option 60 from it"
            yield WantedPort("udp", entry.options.interface, dhcp.SERVER_PORT, entry.name, cure)
    for name, at in subject.servicePorts:
        shared, _, address = at.host.partition("%")
        if at.required and shared == devices.BROADCAST and address:
            yield WantedPort("udp", address, at.port, name, at.remedy)


def lookAtPorts(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out who holds each port of the service file."""
    bound = list(boundSockets(machine))
    wanted = {want: _takenBy(want, bound) for want in wantedPorts(subject)}
    known = holders(machine, {each.inode for sockets in wanted.values() for each in sockets})
    own = machine.addresses()
    services = {name for name, _ in subject.servicePorts}
    others = [(want.by, want.host) for want in wanted if want.kind == "tcp" or want.by in services]
    hosts = (*subject.interfaces, *others)
    gone = {host: name for name, host in hosts if host not in own and not _isEverywhere(host)}
    for host, name in gone.items():
        cure = "wait for the network (After=network-online.target), or mend the address"
        yield Finding("problem", f"{name}: no interface has the address {host}", cure)
    if machine.text("/proc/net/udp") is None:
        yield Finding("not known", "which ports are free: /proc/net/udp cannot be read", "mount /proc")
        return
    for want, sockets in wanted.items():
        if not sockets and want.host in gone:
            continue
        who = [each for sock in sockets for each in known[sock.inode]]
        servers = [each.pid for each in who if each.isCastd and serves(machine, each, subject.config.file)]
        yield _portFinding(want, sockets, who, subject.pid or next(iter(servers), None))
    for want in _broadcastPorts(subject):
        yield from _sharingFindings(want, machine)


def _sharingFindings(want: WantedPort, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the broadcasts to a port can be heard beside the DHCP server of this machine that has it."""
    bound = [each for each in boundSockets(machine) if (each.kind, each.port) == (want.kind, want.port)]
    known = holders(machine, {each.inode for each in bound})
    others = {str(who) for each in bound for who in known[each.inode] if not who.isCastd and not who.isSystemd}
    if not all(known[each.inode] for each in bound):
        others.add("a program that cannot be seen")
    if not others:
        return
    who = ", ".join(sorted(others))
    failed = machine.bindFails(f"{devices.BROADCAST}%{want.host}", want.port)
    if failed == errno.EADDRINUSE:
        what = f"{want.by}: broadcasts to UDP {want.port} are not heard: {who} does not share it"
        yield Finding("problem", what, want.remedy or "stop that program, or have it share the port")
    elif not failed:
        yield Finding("fine", f"{want.by}: broadcasts to UDP {want.port} can be heard beside {who}")
    elif failed != errno.EADDRNOTAVAIL:
        what = f"{want.by}: whether {who} shares UDP {want.port}: {os.strerror(failed)}"
        yield Finding("not known", what, "run this as root")


def _isEverywhere(host: str) -> bool:
    """Return whether every machine has an address: that for all, C{""} too, and those of the loopback interface."""
    return not host or ip_address(host).is_unspecified or ip_address(host).is_loopback


def _takenBy(want: WantedPort, bound: list[BoundSocket]) -> list[BoundSocket]:
    return [
        each for each in bound if (each.kind, each.port) == (want.kind, want.port) and collides(each.host, want.host)
    ]


def _portFinding(want: WantedPort, sockets: list[BoundSocket], known: list[Holder], pid: int | None) -> Finding:
    if not sockets and pid is not None:
        return Finding("problem", f"{want}: the server does not have it", "castd status; castd reload says why")
    if not sockets:
        return Finding("fine", f"{want} is free")
    others = sorted({each for each in known if not each.isSystemd})
    held = f"{want} is held by {', '.join(map(str, others))}"
    if pid is not None and pid in [each.pid for each in others]:
        return Finding("fine", held)
    if pid is None and others and all(each.isCastd for each in others):
        return Finding("not known", f"{held}: whether for this file", "--control PATH, of its control socket")
    if others:
        return Finding("problem", held, want.remedy or "stop that program, or use another port or interface")
    if known:
        return Finding("not known", f"{want} is held by {known[0]}, for a socket unit", "systemctl list-sockets")
    uids = ", ".join(str(each) for each in sorted({each.uid for each in sockets}))
    return Finding("problem", f"{want} is held by a process of user {uids} that cannot be seen", "run this as root")


def lookAtPrivileges(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the privileged ports can be bound, and with which rights castd serves."""
    first = int(machine.text(UNPRIVILEGED) or 1024)
    low = sorted({each for each in _boundPorts(subject) if each < first})
    shown = ", ".join(map(str, low))
    if not low:
        yield Finding("fine", f"no port is below {first}, so no privilege is needed")
    elif mayBindLow(machine, subject.process):
        yield Finding("fine", f"ports below {first} ({shown}): {_process(subject)} has CAP_NET_BIND_SERVICE")
    elif subject.pid is not None:
        text = f"ports below {first} ({shown}): the server cannot bind them again without CAP_NET_BIND_SERVICE"
        yield Finding("fine", f"{text}; a reload cannot add one, a restart can")
    else:
        cure = "AmbientCapabilities=CAP_NET_BIND_SERVICE as in etc/castd.service, castd.socket, or root with --user"
        yield Finding("problem", f"ports below {first} ({shown}): this user may not bind them", cure)
    yield _userFinding(subject)


def _boundPorts(subject: Subject) -> Iterator[int]:
    """Return the ports that are bound, also those that other programs may have, too."""
    yield from (want.port for want in wantedPorts(subject))
    yield from (want.port for want in _broadcastPorts(subject))


def _proxyDhcps(subject: Subject) -> list[ProxyDhcpOptions]:
    return [each.options for each in subject.config.transports if isinstance(each.options, ProxyDhcpOptions)]


def _process(subject: Subject) -> str:
    return "this process" if subject.pid is None else f"the server (pid {subject.pid})"


def _userFinding(subject: Subject) -> Finding:
    if subject.user is None:
        return Finding("not known", "which user will serve", "castd doctor --user NAME looks at all as that user")
    if subject.user.uid == 0:
        cure = "castd serve --user, or etc/castd.service: castd needs root for nothing but its ports"
        return Finding("problem", "castd serves as root", cure)
    return Finding("fine", f"castd serves as user {subject.user.uid}, group {subject.user.gid}")


def lookForServers(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find other servers for machines that boot: on this machine, and, where that is asked for, on its networks."""
    yield from _serversHere(machine)
    interfaces = [interface for _, interface in subject.interfaces]
    addresses = machine.addresses()
    wanted = {addresses[each]: each for each in interfaces if each in addresses and ":" not in each}
    if not wanted and "" in interfaces:
        wanted = {device: each for each, device in addresses.items() if ":" not in each and device != "lo"}
    for number, (device, address) in enumerate(wanted.items()):
        if subject.probe and number < _MOST_PROBED:
            yield from _serversAround(subject, machine, device, address)
        else:
            how = f"on each interface, {_MOST_PROBED} at the most"
            yield Finding(
                "skipped", f"{device}: DHCP servers are not asked", f"--probe broadcasts a DHCPDISCOVER {how}"
            )


def _serversHere(machine: IMachine) -> Iterator[Finding]:
    """Find the programs of this machine that hold a port of a boot server."""
    bound = [each for each in boundSockets(machine) if each.kind == "udp" and each.port in _BOOTING]
    known = holders(machine, {each.inode for each in bound})
    others: dict[tuple[Holder, int], list[str]] = {}
    for sock in bound:
        for each in known[sock.inode]:
            if not each.isCastd and not each.isSystemd:
                others.setdefault((each, sock.port), []).append(hostPort((sock.host, sock.port)))
    for (holder, port), places in sorted(others.items()):
        what = f"{holder} serves {_BOOTING[port]} at {', '.join(places)} of this machine"
        if port == dhcp.SERVER_PORT:
            yield Finding("fine", what)
        else:
            yield Finding("problem", what, "machines may ask it instead of castd: stop it, or that part of it")
    if not others:
        yield Finding("not seen", "another boot server on this machine")


def _serversAround(subject: Subject, machine: IMachine, device: str, address: str) -> Iterator[Finding]:
    """Find the servers that answer a machine which boots, in one network, castd's own proxydhcp among them."""
    yield _claimFinding(machine, device, address)
    proxy = proxyAt(subject, address)
    requests = [each.discover() for each in askedFor(proxy)]
    try:
        answers = machine.offers(address, requests, OFFER_SECONDS)
    except OSError as error:
        yield Finding("not known", f"{device}: DHCP servers: {error.strerror}", "run this as root")
        return
    yield from dhcpServers(answers, device)
    if proxy is not None:
        yield from ownAnswers(subject, proxy, answers, machine)
    found = {
        (each, _bootServer(packet, each.host))
        for _, packet, source, _ in answers
        if (each := rival(packet, source, IPv4Address(address), proxy is None or proxy.port67))
    }
    for each, server in sorted(found):
        kind = "proxyDHCP server" if each.proxy else "DHCP server"
        text = f"{device}: the {kind} {each.host} tells machines what to boot: {each.told}, from {server}"
        if server in machine.addresses() and not _proxyDhcps(subject):
            yield Finding("fine", text)
        else:
            cure = "let one server tell them; without proxydhcp, one that names this machine (next-server)"
            yield Finding("problem", text, cure)
    if not found:
        yield Finding("not seen", f"{device}: another server that tells machines what to boot")


def _claimFinding(machine: IMachine, device: str, address: str) -> Finding:
    """Find out whether another machine of the network has the address of this one."""
    try:
        claimants = machine.claimants(address, _CLAIM_SECONDS)
    except OSError as error:
        what = f"{device}: whether another machine has the address {address}: {error.strerror}"
        return Finding("not known", what, "run this as root")
    if claimants:
        what = f"{device}: {', '.join(claimants)} has the address {address} as well: it gets a part of the requests"
        return Finding("problem", what, "another address for one of them; the switch knows the port of that MAC")
    return Finding("not seen", f"{device}: another machine with the address {address}")


def _bootServer(packet: DhcpPacket, server: str) -> str:
    """Return where an answer sends a machine for its file; a server that names none is asked itself."""
    named = packet.option(dhcp.TFTP_SERVER).rstrip(b"\0").decode("ascii", "backslashreplace")
    return str(packet.siaddr) if int(packet.siaddr) else named or server
