"""
Convert to netascii and back: RFC 1350 section 1 means the line rules of TELNET (RFC 854) by it.

On the wire a line ends with CR LF and a carriage return is CR NUL; all other octets are themselves.  A file on disk is
taken to have LF at its lines' ends.
"""

from __future__ import annotations

CR = b"\r"


def encode(data: bytes) -> bytes:
    """
    Convert octets of a file to those on the wire.

    Each octet is converted by itself, so pieces of a file can be converted one by one.  A file that already has CR LF
    at its lines' ends becomes CR NUL CR LF, which gives the receiver the same file back.
    """
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def growth(data: bytes) -> int:
    """-> how many octets longer L{encode} makes it."""
    return data.count(b"\r") + data.count(b"\n")


class Decoder:
    """
    Converts octets of the wire to those of a file, piece by piece.

    CR followed by anything but LF or NUL is undefined; as everybody does, both octets are kept.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """-> the octets that are certain by now.  A CR at the end is held back until its partner is known."""
        data = self._held + data
        self._held = CR if data.endswith(CR) else b""
        # In this order: no CR NUL can come into being by the first replacement, as the LF stays where it was.
        return data[: len(data) - len(self._held)].replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")

    def finish(self) -> bytes:
        """-> the octets that were held back: a CR that ends the file has no partner, and is kept."""
        held, self._held = self._held, b""
        return held
