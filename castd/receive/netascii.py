"""
A TFTP read in mode netascii: the payloads are converted to the octets of a file.
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
        # A size would be that of the file on the wire, not of the one that is stored.
        super().__init__(name, replace(requested, tsize=False), "netascii", policy)
        self._decoder = Decoder()

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """As L{TftpDownload.receive}, with the octets of the file in place of those on the wire."""
        payload, replies = super().receive(datagram, now)
        if payload is not None:
            payload = self._decoder.feed(payload)
            if self.complete:
                # A CR that ends the file has no partner to wait for.
                payload += self._decoder.finish()
        return payload, replies
