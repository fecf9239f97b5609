"""
Note the packets of transfers for the flight recorder.

It stands between a transfer and its port: L{RecordedCast} and L{RecordedUpload} note what arrives, L{RecordingPort}
notes what is sent.  Where the service file asks for no recorder none of them is made, and a transfer runs the same code
as before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from zope.interface import implementer

from castd import outcomes
from castd.interfaces import IContent, IDatagramPort, ISite, ITransferHalf, IUpload, IWire, Octets
from castd.pacing import RateLimit
from castd.request import Local, Peer, Request
from castd.server import eventlog
from castd.server.cast_protocol import CastProtocol, Receiver
from castd.server.recorder import Recorder, Tape
from castd.server.upload_protocol import UploadProtocol

if TYPE_CHECKING:
    from castd.server.listener import Listener
    from castd.server.port_dialect import PortDialect


@implementer(IDatagramPort)
class RecordingPort:
    """Notes what a transfer sends by its port."""

    def __init__(self, port: IDatagramPort, tape: Tape, peer: Peer) -> None:
        """@param peer: where the port sends to if no address is named."""
        self._port, self._tape, self._peer = port, tape, peer[:2]

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        self._port.write(datagram, address)
        self._tape.sent(datagram, self._peer if address is None else address[:2])

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        self._port.writeFrom(datagram, address, local)
        self._tape.sent(datagram, address[:2])

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        sent = self._port.writeBurst(image, step, address, local)
        if sent:
            self._tape.sentBlocks(image[:sent], step, self._peer if address is None else address[:2])
        return sent

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], object]:
        write = self._port.burstWriter(step, most, address)
        note = self._tape.blockNoter(self._peer if address is None else address[:2])

        def send(image: Octets) -> None:
            write(image)
            note(image, step)

        return send

    def holdWindow(self, blocks: int, octets: int) -> int:
        return self._port.holdWindow(blocks, octets)

    def readArrived(self) -> None:
        self._port.readArrived()

    def stopListening(self) -> Deferred[None] | None:
        return self._port.stopListening()

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._port.getHost()

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        self._port.setGroup(ttl, interface, loopback, broadcast)


def _recording(port: IDatagramPort, tape: Tape, request: Request) -> RecordingPort:
    """Return a port that notes what is sent by another one; the tape gets the address of that."""
    at = port.getHost()
    host = request.local.host if at.host in ("", "0.0.0.0", "::") else at.host
    tape.local = host, at.port
    return RecordingPort(port, tape, request.peer)


class RecordedCast(CastProtocol):
    """
    A cast whose packets are noted.

    @ivar tape: where.
    """

    def __init__(
        self,
        recorder: Recorder,
        request: Request,
        site: ISite,
        listener: Listener,
        entry: PortDialect,
        key: Hashable,
        wire: IWire,
        content: IContent,
        pacers: tuple[RateLimit, ...],
    ) -> None:
        """@param request: the request that begins it; the others as for L{CastProtocol}."""
        super().__init__(site, listener, entry, key, wire, content, pacers)
        self._recorder, self._request = recorder, request
        self.tape = recorder.tape(entry.name, request, wire)

    def startProtocol(self) -> None:
        """Note what is sent, now that the cast is connected to its port."""
        self.transport = _recording(self.transport, self.tape, self._request)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Note a datagram, and handle it."""
        self.tape.arrived(datagram, addr)
        super().datagramReceived(datagram, addr)

    def strangerReceived(self, datagram: bytes, addr: Peer) -> None:
        """Note a datagram of somebody else, and handle it."""
        self.tape.arrived(datagram, addr)
        super().strangerReceived(datagram, addr)

    def dismiss(self, receiver: Receiver, ending: eventlog.Ending, now: float) -> None:
        """As L{CastProtocol.dismiss}; then forget the packets of the receiver."""
        super().dismiss(receiver, ending, now)
        if ending.outcome == outcomes.PROBE:
            self._recorder.sizeAsked(self.tape, receiver.request.peer)
        self._recorder.left(self.tape, receiver.request.peer)

    def close(self) -> None:
        """As L{CastProtocol.close}; then forget all packets of the cast."""
        super().close()
        self._recorder.ended(self.tape)


class RecordedUpload(UploadProtocol):
    """
    An upload whose packets are noted.

    @ivar tape: where.
    """

    def __init__(
        self,
        recorder: Recorder,
        site: ISite,
        name: str,
        request: Request,
        uploadReceiver: ITransferHalf,
        upload: IUpload,
        left: Callable[[UploadProtocol], object],
        done: Callable[[UploadProtocol], object],
        requested: Callable[[bytes, Peer], object],
    ) -> None:
        """The arguments are those of L{UploadProtocol}."""
        tape = self.tape = recorder.tape(name, request)

        def ended(protocol: UploadProtocol) -> None:
            done(protocol)
            recorder.ended(tape)

        super().__init__(site, name, request, uploadReceiver, upload, left, ended, requested)

    def startProtocol(self) -> None:
        """Note what is sent, now that the upload is connected to its port."""
        self.transport = _recording(self.transport, self.tape, self.request)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Note a datagram, and handle it."""
        self.tape.arrived(datagram, addr)
        super().datagramReceived(datagram, addr)

    def strangerReceived(self, datagram: bytes, addr: Peer) -> None:
        """Note a datagram of somebody else, and handle it."""
        self.tape.arrived(datagram, addr)
        super().strangerReceived(datagram, addr)


def noteRequest(session: CastProtocol | UploadProtocol, datagram: bytes, peer: Peer, local: Local) -> None:
    """Note a request for a transfer, if its packets are noted."""
    if isinstance(session, RecordedCast | RecordedUpload):
        session.tape.requested(datagram, peer, local)
