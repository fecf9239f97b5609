"""
Sockets that a supervisor has bound for us: systemd's socket activation, C{sd_listen_fds(3)}.

They are matched to the service file by address, not by name: what a transport asks for and is already there is used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import TypeAlias

from castd.net.fdstore import FDNAME_PREFIX
from castd.net.sockets import boundHost

#: The first descriptor that is passed (C{SD_LISTEN_FDS_START}).
LISTEN_FDS_START = 3
#: The environment variables of the protocol.
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: Descriptors looked at; nobody has so many addresses.
MOST_DESCRIPTORS = 1024

#: Sockets by interface and port, as L{Ports<castd.net.ports.Ports>} wants them.
SocketsByAddress: TypeAlias = dict[tuple[str, int], socket.socket]


def takeVariables(began: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """
    Take out of the environment what it says of passed sockets.

    Twisted's endpoints do so as soon as anybody imports them, and a plugin of anybody's may have been before us; then
    it is as it was when this process began.

    @param began: where the system keeps the environment that a process began with.
    @return: the value of each variable; C{""} where it is not set.
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
    Open the descriptors that were passed; what the environment says of them is removed, so that this is done once.

    @param pid: of this process, as the supervisor names whom it means.
    @return: the sockets that the supervisor has bound; those that a castd before this one has bound and stored (see
        L{castd.net.fdstore}); and a line for each descriptor that is of no use.
    """
    variables = {name: environ.pop(name, "") for name in VARIABLES}
    ours = variables["LISTEN_PID"] == str(os.getpid() if pid is None else pid)
    if not ours or not variables["LISTEN_FDS"].isdecimal():
        return {}, {}, []
    names = variables["LISTEN_FDNAMES"].split(":")
    bound: SocketsByAddress = {}
    stored: SocketsByAddress = {}
    faults = []
    for index in range(min(int(variables["LISTEN_FDS"]), MOST_DESCRIPTORS)):
        name = (names[index] if index < len(names) else "") or "unknown"
        try:
            sock = _openDescriptor(LISTEN_FDS_START + index)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            faults.append(f"descriptor {LISTEN_FDS_START + index} ({name}) was passed and is of no use: {reason}")
            continue
        address = addressOf(sock)
        if address in bound or address in stored:
            reason = "another has its address"
            faults.append(f"descriptor {LISTEN_FDS_START + index} ({name}) was passed and is of no use: {reason}")
            sock.close()
        elif name.startswith(FDNAME_PREFIX):
            stored[address] = sock
        else:
            bound[address] = sock
    return bound, stored, faults


def _openDescriptor(descriptor: int) -> socket.socket:
    """
    @raise OSError: it is no socket.
    @raise ValueError: it is none that castd can serve from.
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


def addressOf(sock: socket.socket) -> tuple[str, int]:
    """-> address and port of a bound socket as a service file names them: C{""} is the IPv4 wildcard."""
    host = boundHost(sock)
    return ("" if host == "0.0.0.0" else host), sock.getsockname()[1]
