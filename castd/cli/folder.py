"""
Writes the service file that C{castd serve DIR} stands for.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from castd.files.mapping import escape

#: The port of TFTP, and the one in its place for a user who may not have it.
PORT, UNPRIVILEGED_PORT = 69, 6969


def serviceFile(folder: Path, port: int, addresses: Sequence[str], writable: bool) -> str:
    """
    Return the service file that serves one directory to everybody, by TFTP.

    @param folder: the absolute path of the directory.
    @param addresses: the addresses of this machine to listen at, C{""} for all of IPv4.
    @param writable: uploads are stored in the directory, and replace what is there.
    @raise ValueError: the path is not UTF-8, which a service file has to be.
    """
    try:
        path = json.dumps(escape(folder.as_posix().encode().decode()), ensure_ascii=False)
    except UnicodeEncodeError:
        raise ValueError("its path is not UTF-8, and a service file has to be") from None
    lines = ["castd: 1", "", "content:", f"  - directory: {{path: {path}}}"]
    if writable:
        lines += ["", "uploads:", f"  - directory: {{path: {path}, policy: overwrite}}"]
    lines += ["", "access:", f"  - {{allow: any{'' if writable else ', for: read'}}}", "", "transports:"]
    for number, address in enumerate(addresses):
        name, use = ("tftp", "") if number == 0 else (f"tftp-{number + 1}", "use: tftp, ")
        lines.append(f"  {name}: {{{use}port: {port}, interface: {json.dumps(address or 'any')}}}")
    return "\n".join([*lines, ""])


def allAddresses() -> tuple[str, ...]:
    """Return the addresses that stand for all of IPv4, and all of IPv6 where this machine has it."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        return ("", "::")
    return ("",)


@contextmanager
def temporaryFile(text: str) -> Iterator[Path]:
    """Keep a service file on the disk while the context is entered: a reload and an upgrade read it again."""
    with tempfile.TemporaryDirectory(prefix="castd-") as folder:
        file = Path(folder, "castd.yaml")
        file.write_text(text, encoding="utf-8")
        # Nothing in it is secret, and it may be read again by a user that castd has become.
        Path(folder).chmod(0o755)
        file.chmod(0o644)
        yield file
