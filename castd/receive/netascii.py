"""
Netascii on its way in: the same intake, its payloads converted.
"""

from __future__ import annotations

from typing import Any, Protocol

from zope.interface import implementer

from castd.interfaces import ITransferHalf


class Decoding(Protocol):
    """What turns the octets of the wire into those of a file, piece by piece: L{castd.packets.netascii.Decoder}."""

    def feed(self, data: bytes, /) -> bytes: ...

    def finish(self) -> bytes: ...


@implementer(ITransferHalf)
class NetasciiReceiver:
    """
    Another intake whose payloads go through a decoder; all else is the other's.
    """

    def __init__(self, uploadReceiver: Any, decoder: Decoding) -> None:
        self._intake = uploadReceiver
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._intake, name)

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """See L{castd.interfaces.ITransferHalf.receive}."""
        payload, answers = self._intake.receive(datagram, now)
        if payload is None:
            return None, answers
        payload = self._decoder.feed(payload)
        # A CR that ends the file has no partner to wait for.
        return (
            payload + self._decoder.finish() if self._intake.complete else payload,
            answers,
        )
