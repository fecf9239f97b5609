"""
Receives a TFTP read in mode netascii, and converts its payloads to the octets of a file.
"""

from __future__ import annotations

from dataclasses import replace

from castd.cast.policy import RetransmitPolicy
from castd.packets.netascii import Decoder
from castd.receive.options import RequestedOptions
from castd.receive.tftp import CLIENT_POLICY, TftpDownload


class NetasciiDownload(TftpDownload):
    """The client's half of a read in mode netascii."""

    def __init__(self, name: str, requested: RequestedOptions, policy: RetransmitPolicy = CLIENT_POLICY) -> None:
        # Not asked for: tsize would be the size on the wire, not that of the stored file.
        super().__init__(name, replace(requested, tsize=False), "netascii", policy)
        self._decoder = Decoder()

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """Receive a datagram as L{TftpDownload.receive} does; the payload is converted to octets of the file."""
        payload, replies = super().receive(datagram, now)
        if payload is not None:
            payload = self._decoder.feed(payload)
            if self.complete:
                # At the end of the file no LF or NUL can follow a CR any more.
                payload += self._decoder.finish()
        return payload, replies
