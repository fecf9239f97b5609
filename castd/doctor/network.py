"""
Checks the ways to the machines: interfaces and their MTU, routes and TTL of the groups, and who asks for their members.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from castd.config.config import Entry, listening
from castd.doctor.findings import Finding, Subject
from castd.doctor.kernel import onLink
from castd.doctor.machine import IMachine
from castd.options import ListenOptions
from castd.packets.tftp import BLOCK_HEADERS
from castd.proxydhcp.options import Options as ProxyDhcpOptions
from castd.request import ETHERNET_MTU

#: How long one own datagram is waited for, seconds, and in how many groups.
_HEARING, _MOST_GROUPS = 1.0, 8
_LOOPBACK: Final = "lo"
_SYS: Final = "/sys/class/net"


def usedDevices(subject: Subject, machine: IMachine) -> dict[str, list[str]]:
    """Return the devices that transports use, each with the addresses they use there."""
    wanted = [interface for _, interface in subject.interfaces]
    found: dict[str, list[str]] = {}
    for address, device in machine.addresses().items():
        whole = "::" if ":" in address else ""
        if address in wanted or (whole in wanted and device != _LOOPBACK):
            found.setdefault(device, []).append(address)
    return found


def lookAtMtu(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether each interface that a transport uses is up, and carries what Ethernet carries."""
    devices = usedDevices(subject, machine)
    outside = devices.keys() - {_LOOPBACK}
    for device, addresses in devices.items():
        # Of several that a wildcard takes in, such as those of tunnels and containers, not each is for clients.
        isForClients = len(outside) == 1 or any(each in addresses for _, each in subject.interfaces)
        found = _mtuFinding(device, addresses, machine)
        if found.verdict == "problem" and not isForClients:
            found = Finding("not known", f"{found.what}; whether clients are there", "set interface")
        yield found
    yield from _knownPaths(machine)
    if not devices:
        yield Finding("problem", "no interface that a transport uses has an address", "ip address")


def _mtuFinding(device: str, addresses: list[str], machine: IMachine) -> Finding:
    shown = f"{device} ({', '.join(addresses)})"
    mtu = int(machine.text(f"{_SYS}/{device}/mtu") or 0)
    if (machine.text(f"{_SYS}/{device}/operstate") or "").strip() in ("down", "lowerlayerdown"):
        return Finding("problem", f"{shown} is down", f"ip link set {device} up; look at the cable")
    if not mtu:
        return Finding("not known", f"{shown}: its MTU")
    if mtu < ETHERNET_MTU:
        what = f"{shown} has MTU {mtu}: blocks of more than {mtu - BLOCK_HEADERS} octets would go in fragments"
        return Finding("problem", what, f"ip link set {device} mtu {ETHERNET_MTU}, or blksize: {mtu - BLOCK_HEADERS}")
    if mtu > ETHERNET_MTU and device != _LOOPBACK:
        what = f"{shown} has MTU {mtu}: whether the switches and the machines carry that"
        return Finding("not known", what, f"caps with blksize: {ETHERNET_MTU - BLOCK_HEADERS} if large blocks are lost")
    return Finding("fine", f"{shown} has MTU {mtu}")


def _knownPaths(machine: IMachine) -> Iterator[Finding]:
    """Show the smaller MTUs that routers have told the kernel of."""
    cached = machine.run("ip", "route", "show", "cache")
    if cached is None:
        yield Finding("not known", "smaller MTUs on the way: ip(8) does not show the kernel's cache")
        return
    known = set(_smallerMtus(cached))
    for host, mtu in sorted(known):
        what = f"a router on the way to {host} carries {mtu} octets only"
        yield Finding("problem", what, f"caps: [{{clients: {host}, blksize: {int(mtu) - BLOCK_HEADERS}}}]")
    if not known:
        yield Finding("not seen", "a smaller MTU on the way to a client (a firewall that drops ICMP hides it)")


def _smallerMtus(cached: str) -> Iterator[tuple[str, str]]:
    """Read C{ip route show cache}: a line with the host, then an indented one with what is known of the way."""
    host = ""
    for line in cached.splitlines():
        if not line[:1].isspace():
            host = line.split()[0]
        if (found := re.search(r"\bmtu (?:lock )?(\d+)", line)) is not None:
            yield host, found[1]


def lookAtRoutes(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """
    Find out by which address group data and broadcasts leave, and whether their TTL suffices; and whether there is a
    way to the machines that a proxydhcp answers.
    """
    asked = False
    for entry, options in listening(subject.config):
        for network in options.destinations():
            asked = True
            yield _routeFinding(entry.name, options, network, machine)
        yield from _ttlFindings(entry, options, machine)
    if not asked:
        yield Finding("skipped", "no transport sends to groups or broadcasts")
    yield from _unreachable(subject, machine)
    yield from _asymmetric(machine)


def _unreachable(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find networks of a proxydhcp's clients that this machine has no route to: relays there get no answer."""
    for entry in subject.config.transports:
        if not isinstance(entry.options, ProxyDhcpOptions):
            continue
        for network in entry.options.clients or ():
            if not isinstance(network, IPv4Network) or not network.prefixlen:
                continue
            first = network[min(1, network.num_addresses - 1)]
            try:
                machine.source(str(first), entry.options.interface)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    break  # no interface has the address, and lookAtPorts says so
                what = f"{entry.name}: no route to {network}, in clients ({error.strerror})"
                yield Finding("problem", what, f"ip route add {network} via ROUTER")


def _asymmetric(machine: IMachine) -> Iterator[Finding]:
    """
    Find out whether the kernel has dropped packets since their answers would leave by another interface, or by none
    (rp_filter): tcpdump shows such requests, and castd does not get them.
    """
    if not (dropped := _counter(machine.text("/proc/net/netstat") or "", "IPReversePathFilter")):
        return
    what = f"{dropped} packets were dropped as no answer would leave by the interface that they came by (rp_filter)"
    cure = "ip route get ADDRESS, of the client: a route to its network by the interface that its requests come by"
    yield Finding("not known", f"whether requests were lost: {what}", cure)


def _counter(table: str, name: str) -> int:
    """Read a counter of /proc/net/netstat: a line with names, then one with their values."""
    lines = table.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if name in (columns := names.split()):
            return int(values.split()[columns.index(name)])
    return 0


def _target(network: IPv4Network) -> str:
    """Return an address of a pool of groups, or the broadcast address of a subnet."""
    return str(network[0] if network.is_multicast else network.broadcast_address)


def _senders(interface: str, machine: IMachine) -> list[str]:
    """
    Return the addresses that a group is sent from: that of the interface; where none is set, the ones that clients may
    ask, one of each device, since a group leaves by the interface of the address that was asked.
    """
    if interface:
        return [interface]
    addresses = machine.addresses().items()
    # The first address of each device is kept.
    devices = {device: host for host, device in reversed(list(addresses)) if device != _LOOPBACK and ":" not in host}
    return sorted(devices.values(), key=IPv4Address) or [interface]


def _routeFinding(name: str, options: ListenOptions, network: IPv4Network, machine: IMachine) -> Finding:
    shown = f"{name}: {network if network.num_addresses > 1 else network[0]}"
    senders = _senders(options.interface, machine) if network.is_multicast else [options.interface]
    try:
        sources = [machine.source(_target(network), sender) for sender in senders]
    except OSError as error:
        cure = "set interface: to the address of this machine in the clients' network, or add a route"
        return Finding("problem", f"{shown}: no route ({error.strerror})", cure)
    addresses = machine.addresses()
    left = ", ".join(f"{source} by {addresses.get(source, '?')}" for source in sources)
    asked = "the address that is asked: " if len(sources) > 1 else ""
    return Finding("fine", f"{shown} is sent from {asked}{left}, TTL {options.ttl}")


def _ttlFindings(entry: Entry, options: ListenOptions, machine: IMachine) -> Iterator[Finding]:
    """Find networks of clients that group data with TTL 1 does not reach."""
    if options.ttl > 1 or not any(options.destinations()):
        return
    near = list(onLink(machine))
    for network in options.groupClients():
        if isinstance(network, IPv4Network) and network.prefixlen and not any(map(network.overlaps, near)):
            what = f"{entry.name}: clients in {network} are behind a router, and ttl: 1 ends there"
            yield Finding("problem", what, "a larger ttl, and multicast routing (PIM) on the routers")


def lookAtGroups(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether this machine hears itself in each group: what it sends passes its own firewall and interface."""
    groups: dict[tuple[str, str], str] = {}
    for entry, options in listening(subject.config):
        for network in options.destinations():
            for sender in _senders(options.interface, machine) if network.is_multicast else ():
                groups.setdefault((str(network[0]), sender), entry.name)
    wanted = {interface for _, interface in subject.interfaces}
    several = len({sender for _, sender in groups} - wanted) > 1
    for (group, sender), name in list(groups.items())[:_MOST_GROUPS]:
        found = _groupFinding(name, group, sender, machine)
        if found.verdict != "fine" and several and sender not in wanted:
            # Not all networks of this machine need be those of clients.
            found = Finding("not known", f"{found.what}; whether clients are there", "set interface")
        yield found
    if len(groups) > _MOST_GROUPS:
        yield Finding("skipped", f"{len(groups) - _MOST_GROUPS} more groups: the first {_MOST_GROUPS} were tried")
    if groups:
        cure = "castd get of a tftm://, mtftp:// or slam:// URL on a machine beside the clients"
        yield Finding("not known", "whether switches pass these groups on to the clients", cure)
    else:
        yield Finding("skipped", "no transport sends to groups")


def _groupFinding(name: str, group: str, interface: str, machine: IMachine) -> Finding:
    shown = f"{name}: group {group} at {interface or 'any'}"
    if ":" in interface:
        return Finding("problem", f"{shown}: groups are IPv4, and this is no IPv4 address", "set another interface")
    try:
        heard = machine.hearsItself(group, interface, _HEARING)
    except OSError as error:
        return Finding("problem", f"{shown} cannot be joined or sent to: {error.strerror}", "ip route; ip maddress")
    if heard:
        return Finding("fine", f"{shown}: this machine hears what it sends")
    # castd only sends: a firewall that lets in what is needed, and this not, is as it should be.
    cure = "a rule of this machine drops it, on its way in if the check firewall names none for what is sent"
    return Finding("not seen", f"{shown}: what this machine sends, by itself", cure)


def lookForQuerier(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out who asks for the members of groups: a snooping switch without that stops forwarding them."""
    if not any(each.is_multicast for _, options in listening(subject.config) for each in options.destinations()):
        yield Finding("skipped", "no transport sends to groups")
        return
    used = set(usedDevices(subject, machine)) - {_LOOPBACK}
    for device in sorted(used):
        yield from _bridgeFindings(device, machine)
    heard = machine.queriers(subject.seconds)
    for address, device in sorted((heard or {}).items()):
        yield Finding("fine", f"{device}: the IGMP querier {address} asks")
    for device in sorted(used - set((heard or {}).values())):
        yield _unheard(device, subject.seconds if heard is not None else None, machine)


def _bridgeFindings(device: str, machine: IMachine) -> Iterator[Finding]:
    """Look at the snooping of a bridge of this machine: the device itself, or what it is a port of."""
    for folder in (f"{_SYS}/{device}/bridge", f"{_SYS}/{device}/brport/bridge/bridge"):
        snooping, querier = (
            (machine.text(f"{folder}/multicast_{each}") or "").strip() for each in ("snooping", "querier")
        )
        if snooping == "1" and querier == "0":
            what = f"{device}: the bridge on this machine snoops IGMP, and does not ask itself"
            cure = "ip link set BRIDGE type bridge mcast_querier 1, unless another querier is seen"
            yield Finding("not seen", f"{what}: a querier", cure)
        elif snooping == "1":
            yield Finding("fine", f"{device}: the bridge on this machine snoops IGMP, and asks itself")


def _unheard(device: str, seconds: float | None, machine: IMachine) -> Finding:
    for line in (machine.text("/proc/net/igmp") or "").splitlines():
        fields = line.split()
        if line[:1].isdigit() and fields[1] == device and fields[-1] in ("V1", "V2"):
            return Finding("fine", f"{device}: a querier of IGMP{fields[-1].lower()} has asked within some minutes")
    if seconds is None:
        return Finding("not known", f"{device}: whether an IGMP querier asks", "run this as root")
    cure = "queriers ask every 125 s: --listen 130; without one, switch snooping off or a querier on"
    return Finding("not seen", f"{device}: an IGMP querier, within {seconds:g} s", cure)
