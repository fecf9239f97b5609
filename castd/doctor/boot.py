"""
Asks for what to boot as machines do, and judges the answers: whether castd's own come, how soon, and whether the file
that they name can be fetched; and which DHCP servers give addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from castd.client.urls import UrlError, parseUrl
from castd.doctor.findings import Finding, Subject
from castd.doctor.kernel import onLink
from castd.doctor.machine import BootAnswer, IMachine
from castd.errors import Forbidden
from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket
from castd.packets.tftp import Data, Error
from castd.proxydhcp.answers import matching
from castd.proxydhcp.limits import MACHINE_WINDOW
from castd.proxydhcp.options import Options as ProxyDhcpOptions
from castd.proxydhcp.requests import BootRequest, Reach, Silence, read
from castd.request import Local

#: Seconds that servers have for an answer; some DHCP servers look first whether an address is in use.
OFFER_SECONDS: Final = 4.0
#: Seconds that castd has for the first block of a file.
_OWN_SECONDS: Final = 2.0
#: Seconds that are waited for the report that nobody listens at port 4011.
_CLOSED_SECONDS: Final = 0.5
#: The cure where a server that does not answer may just not have been started.
NOT_HEARD: Final = "is castd running?  castd serve FILE; its control socket is not heard"
#: The port of TFTP.
_TFTP: Final = 69
#: The hardware address that is asked for.  The second bit of its first octet: assigned by nobody.
_ADDRESS: Final = b"\x02castd"
_NOBODY: Final = IPv4Address(0)


class Firmware(NamedTuple):
    """
    A kind of machine that is asked for.

    @ivar arch: the number of its architecture.
    """

    name: str
    arch: int
    ipxe: bool = False

    def discover(self) -> DhcpPacket:
        """Return its DISCOVER; who sends it sets the C{xid}."""
        userClass, features = (pxe.IPXE_CLASS, ("tftp",)) if self.ipxe else (b"", None)
        return dhcp.discover(_ADDRESS, self.arch, userClass=userClass, features=features)


#: PCs, the first of which is asked for where nothing is known of what castd says; C{proxydhcp} is asked for all.
FIRMWARE: Final = (Firmware("bios", pxe.BIOS), Firmware("efi-x64", 7), Firmware("iPXE", pxe.BIOS, True))


def proxyAt(subject: Subject, address: str) -> ProxyDhcpOptions | None:
    """Return the options of the proxydhcp at this address; L{None}: there is none."""
    options = (each.options for each in subject.config.transports)
    return next((each for each in options if isinstance(each, ProxyDhcpOptions) and each.interface == address), None)


def askedFor(proxy: ProxyDhcpOptions | None) -> Sequence[Firmware]:
    """Return the kinds of machines that are to be asked for: where no castd hears them, one is enough."""
    return FIRMWARE if proxy is not None and proxy.port67 and _mayAnswer(proxy) else FIRMWARE[:1]


def _mayAnswer(proxy: ProxyDhcpOptions) -> bool:
    """Return whether castd may answer all questions about one machine."""
    return proxy.answersPerMachine * MACHINE_WINDOW > len(FIRMWARE)


def dhcpServers(answers: Sequence[BootAnswer], device: str) -> Iterator[Finding]:
    """Tell which DHCP servers give addresses, and how soon."""
    soonest: dict[str, float] = {}
    for each in answers:
        if each.packet.messageType == dhcp.OFFER and each.packet.yiaddr != _NOBODY:
            soonest[each.source] = min(each.seconds, soonest.get(each.source, each.seconds))
    shown = [f"{host} after {_milliseconds(seconds)}" for host, seconds in sorted(soonest.items())]
    if not shown:
        cure = "one that gives addresses to known machines only is not seen so; without one no machine boots"
        yield Finding("not seen", f"{device}: a DHCP server, within {OFFER_SECONDS:g} s", cure)
    elif len(shown) == 1:
        yield Finding("fine", f"{device}: one DHCP server offers an address: {shown[0]}")
    else:
        what = f"{device}: whether the {len(shown)} DHCP servers that offer an address belong together"
        yield Finding("not known", f"{what}: {', '.join(shown)}", "stop the one that should not be there")


def ownAnswers(
    subject: Subject, proxy: ProxyDhcpOptions, answers: Sequence[BootAnswer], machine: IMachine
) -> Iterator[Finding]:
    """Tell what castd itself has answered, whether port 4011 is open, and whether the files that it names come."""
    if not _mayAnswer(proxy):
        yield Finding("skipped", "proxydhcp: answers-per-machine is too low to ask it several times")
        return
    told: list[DhcpPacket] = []
    # A DHCP server of this machine answers from the same address, with another one that it gives away.
    offers = [each for each in answers if each.packet.yiaddr == _NOBODY]
    own = [each for each in offers if proxy.interface in (each.source, _server(each.packet))]
    for number, firmware in enumerate(FIRMWARE if proxy.port67 else ()):
        found = next((each for each in own if each.number == number), None)
        told += [found.packet] if found is not None else []
        yield _offered(subject, proxy, firmware, found, machine)
    yield _bootPort(subject, proxy, machine)
    for file, server in dict.fromkeys((each.file, str(each.siaddr)) for each in told if each.file):
        yield _firstBlock(file.decode("ascii", "backslashreplace"), server, proxy, machine)


def _offered(
    subject: Subject, proxy: ProxyDhcpOptions, firmware: Firmware, found: BootAnswer | None, machine: IMachine
) -> Finding:
    """Judge castd's own offer to a kind of machine, or whether it has to offer anything."""
    if found is not None:
        told = f"castd offers {firmware.name} {_told(found.packet)}, after {_milliseconds(found.seconds)}"
        return Finding("fine", f"proxydhcp: {told}")
    request = _heard(proxy, firmware, machine)
    if isinstance(request, Silence):
        near = "machines in the network of its own interface are not answered"
        return Finding("skipped", f"proxydhcp: {near}, as clients: says: {firmware.name}")
    rule = next((place for place, each in enumerate(proxy.rules) if matching(each, request) is not None), None)
    if rule is None:
        return Finding("skipped", f"proxydhcp: no rule is for each machine of kind {firmware.name}")
    return _silent(subject, f"castd's offer to {firmware.name}, within {OFFER_SECONDS:g} s", rule)


def _heard(proxy: ProxyDhcpOptions, firmware: Firmware, machine: IMachine) -> BootRequest | Silence:
    """Return what castd reads in the DISCOVER that this machine sends for a kind of machine."""
    device = machine.addresses().get(proxy.interface)
    near = tuple(network for network, each in onLink(machine).items() if each == device)
    local = Local(proxy.interface, dhcp.SERVER_PORT, broadcast=True, networks=near)
    reach = Reach(IPv4Address(proxy.interface), proxy.clients, proxy.relays)
    return read(firmware.discover(), False, (proxy.interface, dhcp.CLIENT_PORT), local, reach)


def _server(packet: DhcpPacket) -> str:
    """Return the server that an answer names."""
    named = packet.option(dhcp.SERVER_ID)
    return str(IPv4Address(named)) if len(named) == 4 else ""


def _told(packet: DhcpPacket) -> str:
    """Return what an answer tells a machine to boot."""
    if not packet.file:
        return "a menu"
    # Without option 43 UEFI asks there, and takes nothing from the offer.
    asks = packet.messageType == dhcp.OFFER and not packet.option(dhcp.VENDOR_OPTION)
    file = packet.file.decode("ascii", "backslashreplace")
    return f"the file {file}" + (f", by port {dhcp.BOOT_PORT}" if asks else "")


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(1000 * seconds))} ms"


def _silent(subject: Subject, what: str, rule: int) -> Finding:
    """Return the finding that castd did not answer; without a running server it may just not have been started."""
    text = f"proxydhcp: {what}, by rules[{rule}]"
    if subject.pid is None:
        return Finding("not seen", text, NOT_HEARD)
    return Finding("problem", text, "castd pxe FILE MAC ARCH; the log; the metric castd_pxe_silent_total says why")


def _bootPort(subject: Subject, proxy: ProxyDhcpOptions, machine: IMachine) -> Finding:
    """
    Find out whether somebody listens at port 4011, where UEFI asks.  What castd says there is not seen: it never
    answers its own address, as no two servers of one machine may be made to answer each other.
    """
    port = f"proxydhcp: port {dhcp.BOOT_PORT}"
    if machine.isOpen(proxy.interface, dhcp.BOOT_PORT, _CLOSED_SECONDS):
        return Finding("fine", f"{port} is open; what machines are told there is not asked from castd's own address")
    if subject.pid is None:
        return Finding("not seen", f"{port} is closed", NOT_HEARD)
    return Finding("problem", f"{port} is closed", "the log of castd's start; who else has had that port")


def _firstBlock(told: str, server: str, proxy: ProxyDhcpOptions, machine: IMachine) -> Finding:
    """Fetch the first block of a file that was offered, as the firmware or iPXE would begin."""
    shown = f"proxydhcp: the first block of {told}"
    peer, name = (server, _TFTP), told
    if "://" in told:
        try:
            url = parseUrl(told)
            peer, name = (url.host, url.port or _TFTP), url.name
        except UrlError as error:
            return Finding("not known", f"{shown}: {error}", "castd get of it")
        if url.scheme != "tftp":
            return Finding("skipped", f"{shown} is not fetched by {url.scheme}", "castd get of it, on another machine")
    try:
        packet = machine.firstBlock(name, peer, proxy.interface, _OWN_SECONDS)
    except OSError as error:
        return Finding("problem", f"{shown}: {error.strerror}", "is a tftp of this file at that address?")
    if isinstance(packet, Data):
        return Finding("fine", f"{shown} comes: {len(packet.payload)} octets")
    if isinstance(packet, Error) and packet.code == Forbidden.code:
        cure = "castd explain FILE --client with the address of a machine"
        return Finding("not known", f"{shown}: whether machines get it; this one is refused it: {packet.text}", cure)
    if isinstance(packet, Error):
        return Finding("problem", f"{shown} does not come: ERROR {packet.code}, {packet.text}", "castd explain FILE")
    cure = "the check firewall; another server at that address"
    return Finding("problem", f"{shown} does not come within {_OWN_SECONDS:g} s", cure)
