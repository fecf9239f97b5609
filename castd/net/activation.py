"""
Sockets that a supervisor has bound for us (systemd's socket activation, C{sd_listen_fds(3)}): which they are.

They are matched to the service file by address, not by name: what a transport asks for and is already there is taken.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from castd.net.fdstore import OURS
from castd.net.sockets import zoned

#: The first descriptor that is passed.
FIRST = 3
#: What says which they are.
TOLD = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: Descriptors looked at; nobody has so many addresses.
MOST = 1024

Adopted = dict[tuple[str, int], socket.socket]


def told(began: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """
    Take out of the environment what it says of passed sockets.

    Twisted's endpoints do so as soon as anybody imports them, and a plugin of anybody's may have been before us; then
    it is as it was when this process began.

    @param began: where the system keeps the environment that a process began with.
    """
    try:
        first = dict(each.partition("=")[::2] for each in began.read_bytes().decode(errors="replace").split("\0"))
    except OSError:
        first = {}
    return {name: os.environ.pop(name, first.get(name, "")) for name in TOLD}


def adopted(environ: MutableMapping[str, str], pid: int | None = None) -> tuple[Adopted, Adopted, list[str]]:
    """
    Take over what was passed; what the environment says of it is removed, so that it is taken once.

    @param pid: of this process, as the supervisor names whom it means.
    @return: sockets by address and port, as L{Ports<castd.net.ports.Ports>} wants them: those that the supervisor has
        bound, and those that a castd before this one has (see L{castd.net.fdstore}); and a line for each descriptor
        that is of no use.
    """
    said = {name: environ.pop(name, "") for name in TOLD}
    if said["LISTEN_PID"] != str(os.getpid() if pid is None else pid) or not said["LISTEN_FDS"].isdecimal():
        return {}, {}, []
    names = said["LISTEN_FDNAMES"].split(":")
    found: Adopted = {}
    stored: Adopted = {}
    faults = []
    for index in range(min(int(said["LISTEN_FDS"]), MOST)):
        name = (names[index] if index < len(names) else "") or "unknown"
        try:
            made = _taken(FIRST + index)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            faults.append(f"descriptor {FIRST + index} ({name}) was passed and is of no use: {reason}")
            continue
        address = addressOf(made)
        if address in found or address in stored:
            faults.append(f"descriptor {FIRST + index} ({name}) was passed and is of no use: another has its address")
            made.close()
        elif name.startswith(OURS):
            stored[address] = made
        else:
            found[address] = made
    return found, stored, faults


def _taken(descriptor: int) -> socket.socket:
    """
    @raise OSError: it is no socket.
    @raise ValueError: it is none that castd can serve from.
    """
    os.set_inheritable(descriptor, False)
    made = socket.socket(fileno=descriptor)
    try:
        _check(made)
    except BaseException:
        made.detach()
        raise
    return made


def _check(made: socket.socket) -> None:
    if made.family not in (socket.AF_INET, socket.AF_INET6) or made.type != socket.SOCK_DGRAM:
        raise ValueError("no datagram socket of IPv4 or IPv6")
    if not made.getsockname()[1]:
        raise ValueError("not bound")
    if made.family == socket.AF_INET6 and not made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise ValueError("takes IPv4 as well: set BindIPv6Only=ipv6-only in the socket unit")


def addressOf(made: socket.socket) -> tuple[str, int]:
    """-> address and port of a bound socket as a service file names them: C{""} is the IPv4 wildcard."""
    host = zoned(made)
    return ("" if host == "0.0.0.0" else host), made.getsockname()[1]
