"""
Open the sockets that a supervisor has bound and passed: systemd's socket activation, C{sd_listen_fds(3)}.

They are matched to the service file by address, not by name: a transport gets the passed socket that has its address.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import TypeAlias

from castd.net.fdstore import addressIn
from castd.net.sockets import boundHost
from castd.units import wholeNumber

#: The first descriptor that is passed (C{SD_LISTEN_FDS_START}).
LISTEN_FDS_START = 3
#: The environment variables of the protocol.
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: The most descriptors that are opened.
MOST_DESCRIPTORS = 1024

#: Sockets by interface and port, as L{Ports<castd.net.ports.Ports>} takes them.
SocketsByAddress: TypeAlias = dict[tuple[str, int], socket.socket]


def takeVariables(began: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """
    Remove the variables of passed sockets from the environment, and return their values.

    Twisted's endpoints remove them as soon as they are imported, which a plugin may have done before.  So a variable
    that is missing is read from the environment that the process was started with.

    @param began: the file in which the system keeps that environment.
    @return: the value of each variable; C{""}: it is not set.
    """
    try:
        first = dict(each.partition("=")[::2] for each in began.read_bytes().decode(errors="replace").split("\0"))
    except OSError:
        first = {}
    return {name: os.environ.pop(name, first.get(name, "")) for name in VARIABLES}


def passedSockets(
    environ: MutableMapping[str, str], pid: int | None = None
) -> tuple[SocketsByAddress, SocketsByAddress, list[str]]:
    """
    Open the descriptors that were passed.  Their variables are removed from C{environ}, so that this is done once.

    @param pid: the process ID to compare with C{LISTEN_PID}; L{None}: that of this process.
    @return: the sockets that the supervisor has bound; those that a previous castd has bound and stored (see
        L{castd.net.fdstore}); and a message for each descriptor that cannot be used.
    """
    variables = {name: environ.pop(name, "") for name in VARIABLES}
    ours = variables["LISTEN_PID"] == str(os.getpid() if pid is None else pid)
    count = wholeNumber(variables["LISTEN_FDS"], 1 << 31)
    if not ours or count is None:
        return {}, {}, []
    names = variables["LISTEN_FDNAMES"].split(":")
    bound: SocketsByAddress = {}
    stored: SocketsByAddress = {}
    faults = []
    for index in range(min(count, MOST_DESCRIPTORS)):
        name = (names[index] if index < len(names) else "") or "unknown"
        try:
            sock = _openDescriptor(LISTEN_FDS_START + index)
            # By its name: the interface that a stored socket is bound to may have gone.
            kept = addressIn(name)
            address = kept or _addressOrClose(sock)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            faults.append(f"descriptor {LISTEN_FDS_START + index} ({name}) was passed and is of no use: {reason}")
            continue
        if address in bound or address in stored:
            reason = "another has its address"
            faults.append(f"descriptor {LISTEN_FDS_START + index} ({name}) was passed and is of no use: {reason}")
            sock.close()
        elif kept:
            stored[address] = sock
        else:
            bound[address] = sock
    return bound, stored, faults


def _openDescriptor(descriptor: int) -> socket.socket:
    """
    Open one descriptor, which is left open if this fails.

    @raise OSError: it is no socket.
    @raise ValueError: it is no socket that castd can serve from.
    """
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    try:
        _check(sock)
    except BaseException:
        sock.detach()
        raise
    return sock


def _check(sock: socket.socket) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_DGRAM:
        raise ValueError("no datagram socket of IPv4 or IPv6")
    if not sock.getsockname()[1]:
        raise ValueError("not bound")
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise ValueError("takes IPv4 as well: set BindIPv6Only=ipv6-only in the socket unit")


def _addressOrClose(sock: socket.socket) -> tuple[str, int]:
    """As L{addressOf}; if it fails the socket is closed."""
    try:
        return addressOf(sock)
    except BaseException:
        sock.close()
        raise


def addressOf(sock: socket.socket) -> tuple[str, int]:
    """Return address and port of a bound socket, as in a service file: C{""} is the IPv4 wildcard."""
    host = boundHost(sock)
    return ("" if host == "0.0.0.0" else host), sock.getsockname()[1]
