"""
Convert text to netascii and back.  RFC 1350 section 1 refers to TELNET (RFC 854) for its rules of lines.

On the wire a line ends with CR LF and a carriage return is CR NUL; all other octets stay the same.  A file on disk is
expected to end its lines with LF.
"""

from __future__ import annotations

CR = b"\r"


def encode(data: bytes) -> bytes:
    """
    Convert octets of a file to those on the wire.

    Each octet is converted by itself, so pieces of a file can be converted one by one.  CR LF in the file becomes CR
    NUL CR LF, so that the receiver gets the same file.
    """
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def growth(data: bytes) -> int:
    """Return how many octets longer than C{data} the result of L{encode} is."""
    return data.count(b"\r") + data.count(b"\n")


class Decoder:
    """
    Converts octets of the wire to those of a file, piece by piece.

    CR followed by anything but LF or NUL is undefined; both octets are kept, as other implementations do.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """
        Convert the next piece.  -> the converted octets; a CR at the end is held back until the next octet is known.
        """
        data = self._held + data
        self._held = CR if data.endswith(CR) else b""
        # In this order: the first replacement cannot make a new CR NUL, as the LF stays.
        return data[: len(data) - len(self._held)].replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")

    def finish(self) -> bytes:
        """End the conversion.  -> the octets that were held back: a CR that ends the file is kept."""
        held, self._held = self._held, b""
        return held
