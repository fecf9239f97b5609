"""
Open UDP sockets, set their options, and receive and send datagrams with their local address.
"""

from __future__ import annotations

import errno
import socket
import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address

from castd.interfaces import Octets
from castd.net import devices
from castd.net.devices import Interfaces
from castd.request import Local, Peer

#: A socket of the standard library, or of the class below it, which castd uses where time counts.
Socket: TypeAlias = socket.SocketType

# Linux's numbers, where Python has no names for them.
_SO_RCVBUFFORCE: Final = 33
#: Its first number of 32 bits is the memory of what was received and not read (sock_diag(7), SK_MEMINFO_RMEM_ALLOC).
_SO_MEMINFO: Final = 55
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
#: The same value for both families: IP_PMTUDISC_DONT, IPV6_PMTUDISC_DONT.
_PMTUDISC_DONT: Final = 0
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_IP_MULTICAST_ALL: Final = 49
_IPV6_RECVPKTINFO: Final = getattr(socket, "IPV6_RECVPKTINFO", 49)
_IPV6_PKTINFO: Final = getattr(socket, "IPV6_PKTINFO", 50)
_IPV6_MULTICAST_HOPS: Final = socket.IPV6_MULTICAST_HOPS
_MSG_ERRQUEUE: Final = getattr(socket, "MSG_ERRQUEUE", 0x2000)
_SOCK_NONBLOCK: Final = getattr(socket, "SOCK_NONBLOCK", 0)

#: How addresses of fe80::/10 begin; in IPv4 none begins so.
_LINK_LOCAL: Final = frozenset({"fe8", "fe9", "fea", "feb"})
#: in6_pktinfo: address, interface.
_INFO6: Final = struct.Struct("=16sI")
_ANCILLARY: Final = 256
#: More octets than a datagram has.
_LONGEST: Final = 65535
#: Errors read at once.
_MOST_ERRORS: Final = 64

#: Octets of the receive buffer of a request port.  Many machines may be switched on at once; with the default buffer
#: some of 512 simultaneous requests are lost.
REQUEST_BUFFER: Final = 4 << 20
#: The most datagrams that are dropped at once: more than a receive buffer of the usual size holds.
MOST_QUEUED: Final = 4096
#: Octets of the headers before the payload of a block: IPv6, UDP, TFTP.
HEADERS: Final = 40 + 8 + 4
#: The largest receive buffer of one transfer, octets; the kernel allows twice as many, for its own structures.
MOST_WINDOW_BUFFER: Final = 8 << 20


def twistedAddress(sock: Socket) -> IPv4Address | IPv6Address:
    """Return the address of a bound socket as Twisted's class."""
    name = sock.getsockname()
    kind = IPv6Address if sock.family == socket.AF_INET6 else IPv4Address
    return kind("UDP", name[0], name[1])


def closeSocket(sock: Socket) -> None:
    """Close a socket, and ignore errors: Linux releases the descriptor whatever close returns."""
    try:  # noqa: SIM105 (suppress would take longer than the call)
        sock.close()
    except OSError:
        pass


def mayHaveArrived(sock: Socket) -> bool:
    """
    Return whether datagrams may wait to be read, by the memory that they take.  To read from a socket that has none
    takes four times as long, as Python makes an exception.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4) != b"\0\0\0\0"
    except OSError:
        return True


def familyOf(host: str) -> socket.AddressFamily:
    """Return AF_INET6 for an address with colons, else AF_INET."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _openSocket(family: socket.AddressFamily) -> socket.socket:
    """Open a socket that never waits; on Linux it is made so, which spares a call for each."""
    sock = socket.socket(family, socket.SOCK_DGRAM | _SOCK_NONBLOCK)
    if not _SOCK_NONBLOCK:
        sock.setblocking(False)
    return sock


def bindSocket(host: str, port: int) -> socket.socket:
    """
    Open a non-blocking socket bound to an address; C{""} is the IPv4 wildcard.

    @param host: with C{%} and an address of this machine behind it, as L{castd.net.devices.bindShared}.
    @raise OSError: as C{bind}.
    """
    # Not read from the socket again and again: it makes an enum of a number, which takes longer than a system call.
    family = familyOf(host)
    sock = _openSocket(family)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        shared, _, address = host.partition("%")
        if address and family == socket.AF_INET:
            devices.bindShared(sock, shared, port, address)
        else:
            sock.bind(socketAddress(host or "0.0.0.0", port))
        setCommonOptions(sock, True, family, host if not address else "")
    except BaseException:
        sock.close()
        raise
    return sock


def bindFails(host: str, port: int) -> int:
    """
    Bind a UDP socket as L{bindSocket}, for a moment.

    @return: the C{errno} of the failure; 0: it could be bound.
    """
    try:
        bindSocket(host, port).close()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def socketAddress(host: str, port: int) -> Peer:
    """
    Return an address as sockets take it.  Python drops the zone of C{fe80::1%eth0} unless it is given as a number.

    @raise OSError: there is no interface of this name; or an address of one link (RFC 4007) comes without its zone.
    """
    plain, _, zone = host.partition("%")
    if not zone:
        if plain[:3].lower() in _LINK_LOCAL:
            # The kernel says no more than "Invalid argument".
            raise OSError(errno.EINVAL, f"a link-local address needs the zone of its interface, as {plain}%eth0")
        return host, port
    if zone.isdecimal():
        return plain, port, 0, int(zone)
    try:
        return plain, port, 0, socket.if_nametoindex(zone)
    except OSError:
        # Each version of Python says this in words of its own.
        raise OSError(errno.ENODEV, "no interface with this name") from None


def bindPair(host: str, port: int) -> tuple[Socket, Socket]:
    """
    Open two non-blocking sockets on one port: for one peer, and for all others.

    Once the first is connected, the kernel delivers datagrams of its peer to it, and all others to the second.

    @param host: a numeric address, with its zone where it has one; C{""} is the IPv4 wildcard.
    @param port: C{0}: the kernel chooses it.
    @raise OSError: as C{bind}.
    """
    family = familyOf(host)
    first = _bindPlain(family, socketAddress(host or "0.0.0.0", port), host)
    try:
        # Set only after the first was bound: with SO_REUSEPORT the kernel might choose the port of another pair.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return first, _bindPlain(family, first.getsockname(), host, shared=True)
    except BaseException:
        first.close()
        raise


def _bindPlain(family: socket.AddressFamily, name: tuple[object, ...], host: str, shared: bool = False) -> Socket:
    """
    Open a socket without what Python's library adds to it: a transfer has two, and that takes a third of their time.

    @param name: what C{bind} takes.
    @param host: the address that it is bound to.
    @param shared: the port belongs to another socket already.
    """
    sock = socket.SocketType(family, socket.SOCK_DGRAM | _SOCK_NONBLOCK)
    try:
        if not _SOCK_NONBLOCK:
            sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(name)
        setCommonOptions(sock, False, family, host)
    except BaseException:
        sock.close()
        raise
    return sock


def boundHost(sock: socket.socket) -> str:
    """
    Return the address that a socket is bound to, with its zone where it has one: C{fe80::1%eth0}; for a socket that
    hears only broadcasts or a group an address of its device, C{255.255.255.255%10.0.0.5}.

    @raise OSError: its device does not exist any more.
    """
    host, _, *rest = sock.getsockname()
    if sock.family == socket.AF_INET:
        return devices.zoned(sock, host)
    return f"{host}%{socket.if_indextoname(rest[1])}" if rest and rest[1] else str(host)


def isAtItsDevice(sock: socket.socket, host: str) -> bool:
    """
    Return whether a socket still hears the device that it was bound to by L{bindSocket} with this host.

    The kernel binds it to the number of a device.  A device that was made anew has another number, and the address may
    have moved to another device, such as a bridge.

    @return: C{True} also if no device has the address now, or the host names none.
    """
    zone = host.partition("%")[2]
    if not zone:
        return True
    try:
        if sock.family == socket.AF_INET6:
            return bool(sock.getsockname()[3] == socket.if_nametoindex(zone))
        wanted = devices.deviceOf(zone)
    except OSError:
        return True
    try:
        return devices.boundDevice(sock) == wanted
    except OSError:
        return False


def setCommonOptions(sock: Socket, errors: bool = True, family: int | None = None, host: str = "") -> None:
    """
    Set the options that every socket of castd has.

    The socket gets no datagrams of groups that other sockets on this host have joined: else a server bound to the
    wildcard would read its own data as requests.  What it sends may be fragmented (L{allowFragments}).

    @param errors: keep ICMP errors, with the addresses they are about, until L{readErrors} reads them; until then the
        socket counts as readable.  A connected socket does not need this.
    @param family: the family of the socket, if the caller knows it.
    @param host: the address that it is bound to, if the caller knows it: at an address of one machine the kernel
        delivers no group (C{__udp_is_mcast_sock}), and nothing has to be set.
    """
    kind = family or sock.family
    allowFragments(sock, kind)
    if kind == socket.AF_INET and not _isHost(host):
        setOptional(sock, socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    if errors:
        queueErrors(sock, kind)


@lru_cache(64)
def _isHost(host: str) -> bool:
    """Return whether this is the IPv4 address of one machine: no wildcard, group or limited broadcast."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.version == 4 and not (address.is_unspecified or address.is_multicast or host == "255.255.255.255")


def queueErrors(sock: Socket, family: int | None = None) -> None:
    """
    Keep ICMP errors, with the addresses they are about, until L{readErrors} reads them.

    @param family: the family of the socket, if the caller knows it.
    """
    if (family or sock.family) == socket.AF_INET:
        setOptional(sock, socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        setOptional(sock, socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def allowFragments(sock: Socket, family: int | None = None) -> None:
    """
    Let datagrams be fragmented where a hop has a smaller MTU: no DF in IPv4 (ip(7), C{IP_MTU_DISCOVER}).

    Blocks have one size from the first to the last, so a datagram that is dropped for its size is dropped each time:
    with path MTU discovery a smaller hop costs seconds, and all of the transfer where a firewall drops the ICMP message
    (RFC 2923 section 2.1).  By IPv6 only the sender fragments (RFC 8200 section 5), as soon as the message has arrived.

    @param family: the family of the socket, if the caller knows it.
    """
    if (family or sock.family) == socket.AF_INET:
        setOptional(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    else:
        setOptional(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)


def setOptional(sock: Socket, level: int, option: int, value: int) -> bool:
    """Set an option that is not essential.  -> whether the kernel has accepted it."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def setRequestOptions(sock: socket.socket) -> None:
    """Have the kernel report the address that each datagram was sent to, and make the receive buffer large."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    enlargeBuffer(sock, REQUEST_BUFFER)


def enlargeBuffer(sock: Socket, octets: int) -> None:
    """Set the receive buffer of a socket, as far as the system allows; root may set any."""
    if not setOptional(sock, socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets):
        setOptional(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def windowBuffer(blocks: int, octets: int) -> int:
    """
    Compute the receive buffer that holds a window, as a value of SO_RCVBUF.

    The kernel charges a datagram with the memory that it lies in (C{truesize}): a power of two with most drivers, and
    some octets for its own structures.  It doubles the value of the option for these, which is room for drivers that
    take whole pages, and for fragments.

    @param blocks: datagrams of the window.
    @param octets: octets of the largest, with its headers.
    """
    return blocks << (octets + 512 - 1).bit_length()


def windowRoom(sock: Socket, octets: int) -> int:
    """Return how many datagrams of so many octets, with their headers, the receive buffer of a socket holds."""
    return (sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2) // windowBuffer(1, octets)


def enlargeForWindow(sock: Socket, blocks: int, octets: int) -> int:
    """
    Enlarge the receive buffer of a socket for a window, as far as the system allows and up to L{MOST_WINDOW_BUFFER}.

    @param blocks, octets: as in L{windowBuffer}.
    @return: how many blocks the buffer holds.
    """
    room = windowRoom(sock, octets)
    if room >= blocks:
        return room
    enlargeBuffer(sock, min(windowBuffer(blocks, octets), MOST_WINDOW_BUFFER))
    return windowRoom(sock, octets)


def discardQueued(sock: Socket, most: int = MOST_QUEUED) -> None:
    """
    Read and drop the datagrams that are queued.

    @param most: the most datagrams, as somebody may still be sending.
    """
    for _ in range(most):
        try:
            sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            continue


def discardErrors(sock: Socket) -> None:
    """Read and drop the ICMP errors that are queued; not for ever, as somebody may still be sending."""
    for _ in range(MOST_QUEUED):
        if not readErrors(sock):
            return


def setGroupOptions(sock: socket.socket, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
    """Prepare a socket for sending to a group; see L{castd.interfaces.IDatagramPort.setGroup}."""
    if broadcast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, int(loopback))
        if interface not in ("", "0.0.0.0"):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, int(loopback))


def receiveFrom(sock: socket.socket, interfaces: Interfaces, port: int) -> tuple[bytes, Peer, Local]:
    """
    Receive one datagram.

    @param port: the number that the socket is bound to.
    @return: the datagram, its sender, and the local address that it was sent to.
    @raise BlockingIOError: there is no datagram.
    """
    datagram, ancillary, _, peer = sock.recvmsg(_LONGEST, _ANCILLARY)
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return datagram, peer, interfaces.local(value, port)
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            asked, index = _INFO6.unpack_from(value)
            host = socket.inet_ntop(socket.AF_INET6, asked)
            scoped = f"{host}%{socket.if_indextoname(index)}" if host.startswith("fe80:") else host
            return datagram, peer, Local(scoped, port, index, asked[0] == 0xFF, interfaces.mtu(index))
    return datagram, peer, Local(sock.getsockname()[0], port)


def sendFrom(sock: socket.socket, datagram: Octets, address: Peer, host: str, index: int = 0) -> None:
    """
    Send one datagram from one of the local addresses.

    @param host: the address to send from.
    @param index: index of the interface to send by, in IPv4; 0: the system, or the socket's option for groups, chooses.
    @raise OSError: as C{sendmsg}.
    """
    if sock.family == socket.AF_INET:
        info = devices.PKTINFO.pack(index, socket.inet_aton(host), b"\0" * 4)
        sock.sendmsg([datagram], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, address)
    else:
        plain = host.partition("%")[0]
        info = _INFO6.pack(socket.inet_pton(socket.AF_INET6, plain), 0)
        sock.sendmsg([datagram], [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)], 0, address)


def readErrors(sock: Socket) -> list[tuple[int, Peer]]:
    """
    Read the ICMP errors in the socket's error queue, each of which is about a datagram that could not be delivered.

    @return: errno, and the peer that the datagram was sent to.
    """
    found: list[tuple[int, Peer]] = []
    while len(found) < _MOST_ERRORS:
        try:
            _, ancillary, _, peer = sock.recvmsg(0, _ANCILLARY, _MSG_ERRQUEUE)
        except OSError:
            break
        for level, kind, value in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                found.append((struct.unpack_from("=I", value)[0], peer))
    return found
