"""
UploadProtocol: the DatagramProtocol of one write.  The server is the receiver here, so there is no cast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.errors import Refused, UnknownTid, WireError
from castd.interfaces import IDialect, ILiveTransfer, ISite, ITransferHalf, ITransferProtocol, IUpload, LiveReceiver
from castd.packets.tftp import ACK, DATA, LARGEST_BLKSIZE, OACK, buildError, opcode, parseRequest
from castd.request import Peer, Request, hostPort
from castd.server.cast_protocol import CLOSED_PORTS, JITTER
from castd.server.sender import SendQueue

_log = Logger(namespace="castd")


@implementer(ILiveTransfer, ITransferProtocol)
class UploadProtocol(DatagramProtocol):
    """
    Runs an intake on a port: payloads go to the upload, its last acknowledgement goes out when the upload is committed.

    Whatever else ends it, nothing is left behind.  The port is the caller's: C{done} is the moment to give it back.

    @ivar request: who writes what.
    @ivar blocks, octets: what was received; C{repeats}: what had to be said again until it was stored;
        C{full}: times the socket was full.
    @ivar malformed: datagrams of the peer that said nothing.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    @ivar over: it has ended.
    @cvar largest: octets of the longest datagram that is heard whole: one more than any block has, so that it shows.
    """

    largest = LARGEST_BLKSIZE + 5
    transport: Any = None
    kind = "upload"
    group: Peer | None = None
    size: int | None = None

    noisy = False

    def __init__(
        self,
        site: ISite,
        name: str,
        request: Request,
        uploadReceiver: ITransferHalf,
        upload: IUpload,
        done: Callable[[UploadProtocol], object],
    ) -> None:
        """
        @param name: of the transport, for events.
        @param done: called once, with this, when it is over.
        """
        self.site: Any = site
        self.name = name
        self.request = request
        self.blocks = self.octets = self.repeats = self.full = self.malformed = 0
        self.opened: float = self.site.reactor.seconds()
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self.over = False
        self._receiver: Any = uploadReceiver
        self._upload: Any = upload
        self._done = done
        self._committing = self._committed = False
        self._committedAt: float | None = None
        self._closed = 0
        self._seconds = self.site.reactor.seconds
        self._queue = SendQueue()
        self._shared = False

    # What is shown of it.

    @property
    def fileName(self) -> str:
        """Name of the file, as the client writes it."""
        return self.request.name

    def progress(self) -> tuple[int, int, int]:
        """As L{ILiveTransfer.progress}."""
        return self.blocks, self.repeats, self.octets

    def liveReceivers(self) -> Sequence[LiveReceiver]:
        """-> the one client that writes."""
        return [LiveReceiver(self.request.peer, self.request.name, self.blocks, None, self.opened)]

    # Life.

    def begin(self) -> None:
        """The port is there: open the transfer."""
        # On the listening port we hear the client's requests, too; on one of our own they would be somebody's noise.
        with suppress(OSError):
            self._shared = self.transport.getHost().port == self.request.local.port
        self._open()

    def _open(self) -> None:
        try:
            self._say(self._receiver.begin(self._seconds()))
        except Exception:
            self._fail()
        self._pump()

    def answerAgain(self, request: Request, dialect: IDialect) -> bool:
        """
        The peer sent a request while this is under way.

        @return: True: its own once more, as our opening was lost; it went out again.  False: the client has restarted.
        """
        if self.blocks or not self._same(request.name, request.mode, request.write, request.options):
            return False
        self._open()
        return True

    def replace(self, peer: Peer) -> None:
        """The machine behind the peer has restarted: this is over."""
        self._finish(outcomes.REPLACED)

    def endIfIdle(self) -> None:
        """A stop begins: an upload that is in its place does not hold it up for the sake of a lost last answer."""
        if self._committed:
            self._finish(outcomes.DONE)

    def end(self, outcome: str) -> None:
        """End it from our side; the client is told."""
        if not self.over and not self._committed:
            self._say([buildError(0, outcomes.MEANING[outcome])])
        self._finish(outcome)

    # What is heard.

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport: a datagram of the peer."""
        if self.over:
            return
        try:
            if self._shared and self._isRequest(datagram):
                return
            payload, answers = self._receiver.receive(datagram, self._seconds())
            if payload:
                self._upload.write(payload)
            self._received(payload, answers)
        except WireError as error:
            self._count(datagram, error)
        except Refused as error:
            self._refuse(error)
        except Exception:
            self._fail()

    def _received(self, payload: bytes | None, answers: list[bytes]) -> None:
        self._closed = 0
        if payload is not None:
            self.blocks += 1
            self.octets += len(payload)
        self._say(answers)
        if payload is not None and self._receiver.complete:
            self._whole()
            self._committing = True
            maybeDeferred(self._upload.commit).addCallbacks(self._stored, self._unstored)
        self._pump()

    def _whole(self) -> None:
        """
        Is it all that was announced?

        @raise Refused: octets are missing; what was there before stays.
        """
        size = self._announced()
        if size is not None and self.octets < size:
            raise Refused(f"{self.octets} octets came of {size}")

    def _announced(self) -> int | None:
        """-> octets that are to come, if it is known: in netascii the size may be that before the conversion."""
        size: int | None = self._receiver.size
        return size if self.request.mode == "octet" else None

    def strangerReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport: not from the peer that the port was lent for.  An ERROR or noise is never answered."""
        try:
            known = opcode(datagram) in (DATA, ACK, OACK)
        except WireError:
            return
        if known and self.site.admission.mayAnswerStranger(addr[0], self._seconds()):
            self._queue.write(self, buildError(UnknownTid.code, UnknownTid.text), addr)

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """From the transport: the client's host says that its port is closed.  Believed when said twice in a row."""
        self._closed += 1
        if self._closed >= CLOSED_PORTS:
            # Not from here: we may be in the middle of sending.
            self.site.timers.set(self, self._seconds())

    def _isRequest(self, datagram: bytes) -> bool:
        """
        Where transfers live on the listening port, the client's repeated request comes here.  If it is not a repetition
        it gets no answer but that this transfer is over; the client's next try finds the way free.
        """
        try:
            ask = parseRequest(datagram)
        except Refused as error:
            raise WireError(str(error)) from error
        if ask is None:
            return False
        if self.blocks or not self._same(ask.name, self.request.mode, ask.write, ask.options):
            self._finish(outcomes.REPLACED)
        else:
            self._open()
        return True

    def _same(self, name: str, mode: str, write: bool, options: object) -> bool:
        mine = self.request
        return (name, mode, write, options) == (mine.name, mine.mode, mine.write, mine.options)

    def _count(self, datagram: bytes, error: WireError) -> None:
        self.malformed += 1
        _log.debug(
            "{peer} sent {octets} octets that say nothing: {why}",
            event="malformed",
            peer=hostPort(self.request.peer),
            octets=len(datagram),
            why=str(error),
        )

    # What goes out.

    def timerExpired(self) -> None:
        """The alarm rings."""
        if self._closed >= CLOSED_PORTS:
            self._finish(outcomes.CLOSED)
        else:
            self._queue.flush(self)
            self._pump()

    def _pump(self) -> None:
        """Repeat what is due, and set the alarm: after every stimulus, always the same way."""
        if self.over:
            return
        now = self._seconds()
        try:
            due = self._receiver.poll(now)
            if not self._committed:
                self.repeats += len(due)
            self._say(due)
            if self._receiver.outcome is not None:
                self._finish(self._receiver.outcome)
            else:
                self.site.timers.set(self, self._next(now))
        except Exception:
            self._fail()

    def _next(self, now: float) -> float | None:
        """-> the instant to wake up at; a little late, so that a crowd does not fall into step."""
        instant: float | None = self._receiver.deadline(now)
        if instant is not None:
            instant = now + (instant - now) * (1 + JITTER * self.site.random.random())
        if self._queue.kept:
            again = now + self._queue.rest
            return again if instant is None else min(instant, again)
        return instant

    def _say(self, datagrams: Sequence[bytes]) -> None:
        """What an acknowledgement says includes all that was to be said before it, so nothing ever piles up."""
        if datagrams:
            self._queue.putInstead(self, datagrams, self.request.peer)

    # How it ends.

    def _stored(self, result: object) -> None:
        self._committing, self._committed = False, True
        self._committedAt = self._seconds()
        if not self.over:
            try:
                self._say(self._receiver.stored(self._seconds()))
            except Exception:
                self._fail()
            self._pump()

    def _unstored(self, failure: Failure) -> None:
        self._committing = False
        error = failure.value
        if not isinstance(error, Refused):
            self._fail(failure)
        elif not self.over:
            self._refuse(error)

    def _refuse(self, error: Refused) -> None:
        """The peer is told no, once, and that is the end."""
        self._say([buildError(error.code, error.text)])
        self._finish(None, error)

    def _fail(self, failure: Failure | None = None) -> None:
        """A fault of ours: its traceback is logged, this upload ends, the server goes on."""
        _log.failure("{transport}: an upload failed", failure, event="fault", transport=self.name)
        self.end(outcomes.FAILED)

    def _finish(self, outcome: str | None, refusal: Refused | None = None) -> None:
        """
        @param outcome: how it ended; L{None}: by C{refusal}.
        """
        if self.over:
            return
        self.over = True
        self.site.timers.set(self, None)
        if self._committed:
            # All is in its place, whatever became of the last acknowledgement.
            outcome = outcomes.DONE
        elif not self._committing:
            self._abort()
        self._tell(outcome, refusal)
        self._done(self)

    def _abort(self) -> None:
        try:
            self._upload.abort()
        except Exception:
            _log.failure("{transport}: an upload failed to break off", event="fault", transport=self.name)

    def _tell(self, outcome: str | None, refusal: Refused | None) -> None:
        """The one event."""
        told: dict[str, Any] = {
            "transport": self.name,
            "peer": hostPort(self.request.peer),
            "name": self.request.name,
            "write": True,
            "seconds": (self._committedAt or self._seconds()) - self.opened,
            "size": self._announced(),
            "octets": self.octets,
            "blocks": self.blocks,
            "repeats": self.repeats,
        }
        if refusal is not None:
            form = "{transport}: {peer} is refused {name} after {octets} octets: {why}"
            _log.info(form, event="refused", code=refusal.code, why=str(refusal), **told)
        elif outcome is not None:
            form = "{transport}: {peer} {meaning}: {name} written, {octets} octets in {seconds:.3f} s, {blocks} blocks"
            _log.info(form, event="received", outcome=outcome, meaning=outcomes.MEANING[outcome], **told)
