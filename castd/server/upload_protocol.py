"""
Receive one upload by a DatagramProtocol.  The server is the receiver, so there is no cast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.errors import Busy, Forbidden, Refused
from castd.interfaces import (
    IContestedUpload,
    IDialect,
    ILiveTransfer,
    IPredictingHalf,
    IReportingHalf,
    ISite,
    ITransferHalf,
    ITransferProtocol,
    IUpload,
    IWindowHalf,
    LiveReceiver,
)
from castd.net.faults import askPlugin
from castd.net.sockets import HEADERS, MOST_WINDOW_BUFFER, windowBuffer
from castd.packets.tftp import LARGEST_BLKSIZE, RRQ, WRQ, opcode
from castd.receive.base import OffsetBlock
from castd.request import Peer, Request, hostPort
from castd.server import eventlog
from castd.server.cast_protocol import CLOSED_PORTS
from castd.server.fastpath import JITTER
from castd.server.half_protocol import HalfProtocol, Payload, Receive
from castd.verdicts import Facts, clip, verdictFields

_log = Logger(namespace="castd")

#: A disk that takes nothing for so many seconds ends the upload: its client has given up by then.
STORE_TIMEOUT = 60.0
#: Datagrams of a client that are kept while its upload waits for the disk, or a window if that has more; beyond that
#: they count as lost.
MOST_KEPT = 128
#: Beginning and octets of the datagram that the half expects, if L{IPredictingHalf.expected} has none: no datagram.
NOT_EXPECTED = (b"", -1)


@implementer(ILiveTransfer, ITransferProtocol)
class UploadProtocol(HalfProtocol):
    """
    Receives one upload on a port: payloads are written to the L{IUpload}, and the last ACK is sent when it is
    committed.

    While the disk is slower than the client, datagrams are kept and not read: without an ACK the client sends no more
    than its window.

    If the upload ends in any other way, nothing of the file is left.  The caller owns the port, and closes it when
    C{done} is called.

    @ivar request: the request that began the upload.
    @ivar blocks, octets: how many blocks and octets were received.
    @ivar repeats: how many datagrams were sent again until the file was stored.
    @ivar onRequestPort: the transfer uses the port that was asked.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    @cvar largest: octets of the longest datagram that is received whole: one more than that of the largest block, so
        that a longer one is noticed.
    """

    largest = LARGEST_BLKSIZE + 5
    kind = "upload"
    group: Peer | None = None
    size: int | None = None

    def __init__(
        self,
        site: ISite,
        name: str,
        request: Request,
        uploadReceiver: ITransferHalf,
        upload: IUpload,
        left: Callable[[UploadProtocol], object],
        done: Callable[[UploadProtocol], object],
        requested: Callable[[bytes, Peer], object],
    ) -> None:
        """
        @param name: name of the transport, for events.
        @param requested: called with a request that the peer sends while the upload is under way, if the upload uses
            the request port; it answers the request, and may end the upload.
        @param left: called once, with this protocol, when the upload is over for its client.
        @param done: called once, with this protocol, when the upload has ended: after C{left}, and where its file is
            just being stored not before the disk has said whether it is.
        """
        super().__init__(name, uploadReceiver, request.peer, site.reactor)
        self.site = site
        self.request = request
        self.blocks = self.octets = self.repeats = 0
        self.opened = self._seconds()
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self._upload = upload
        self._contest = upload if IContestedUpload.providedBy(upload) else None
        self._left, self._done = left, done
        self._requested = requested
        self._committing = False
        self._committedAt: float | None = None
        #: How the upload has ended while its file was being stored, until it is known whether it is.
        self._untoldOutcome: str | None = None
        self._closedReports = 0
        self._displacedFor = ""  # the limit for which its client has to leave
        self._firstBlockAt: float | None = None
        self._lastBlockAt: float | None = None
        self.onRequestPort = False
        self._predicting = uploadReceiver if IPredictingHalf.providedBy(uploadReceiver) else None
        self._expected, self._expectedOctets = NOT_EXPECTED
        self._unread: deque[bytes] = deque()  # kept while the upload waits for the disk
        self._mostUnread = MOST_KEPT
        self._room: Deferred[None] | None = None  # fires when the disk has taken enough
        self._waitsSince: float | None = None
        #: Why an answer could not be sent, and how many blocks had come by then.
        self._unsentWhy, self._unsentAfter = "", -1

    # ILiveTransfer

    @property
    def fileName(self) -> str:
        """Name of the file, as the client has sent it."""
        return self.request.name

    def progress(self) -> tuple[int, int, int]:
        """As L{ILiveTransfer.progress}."""
        return self.blocks, self.repeats, self.octets

    def liveReceivers(self) -> Sequence[LiveReceiver]:
        """As L{ILiveTransfer.liveReceivers}: the one client that sends the file."""
        return [LiveReceiver(self.request.peer, self.request.name, self.blocks, None, self.opened)]

    # The beginning.

    def begin(self) -> None:
        """Open the transfer, once the port is connected."""
        try:
            self._prepare()
        except Refused as error:
            self.refuse(error)
        except BaseException:
            self.fail(Failure())
        else:
            self._open()

    def _prepare(self) -> None:
        """
        Find out what the port is, and have the upload told when another one takes its name.

        @raise Refused: another upload has the name, and cannot be made to leave it.
        """
        # The client's requests come to the request port; at a port of its own they would be no requests.
        with suppress(OSError):
            self.onRequestPort = self.transport.getHost().port == self.request.local.port
            if IWindowHalf.providedBy(self.half):
                self._fitWindow(self.half)
        if self._contest is not None:
            self._contest.whenReplaced(partial(self.finish, outcomes.REPLACED))
            if self._contest.contested and self.onRequestPort:
                # A block that comes there shows nothing: everybody knows the port.
                raise Forbidden("busy", "another upload has this name, and the port is no secret")

    def _fitWindow(self, half: IWindowHalf) -> None:
        """
        Have the socket hold a window, or grant one that it holds (RFC 7440, section 3): what does not fit is lost each
        time.

        @raise OSError: the system does not tell what the socket holds.
        """
        blksize, windowsize = half.terms.blksize, half.terms.windowsize
        if windowsize == 1:
            return
        room = fitWindow(half, self.transport.holdWindow)
        self._mostUnread = max(MOST_KEPT, room)
        if room < windowsize:
            self._logSmallWindow(room, windowsize, blksize, windowBuffer(windowsize, HEADERS + blksize))

    def _logSmallWindow(self, granted: int, asked: int, blksize: int, buffer: int) -> None:
        """Log that the receive buffer holds no window as large as could be granted, and the cure."""
        cure = f"; they do with sysctl net.core.rmem_max={buffer}" if buffer <= MOST_WINDOW_BUFFER else ""
        _log.warn(
            "{transport}: {peer} may send windows of {granted} blocks of {blksize} octets: {asked} do not fit the "
            "receive buffer{cure}",
            event="window-reduced",
            transport=self.name,
            peer=hostPort(self.request.peer),
            granted=granted,
            asked=asked,
            blksize=blksize,
            cure=cure,
        )

    def _open(self) -> None:
        """Send the OACK or ACK 0, or send it again."""
        try:
            self.reply(self.half.begin(self._seconds()))
        except BaseException:
            self.fail(Failure())
        self.pump()

    def answerAgain(self, request: Request, dialect: IDialect) -> bool:
        """
        Answer a request that the peer sends while the upload is under way.

        @return: C{True}: it was the same request, as the OACK or ACK 0 was lost; that was sent again.  C{False}: the
            client has restarted.
        """
        if self.blocks or not request.repeats(self.request):
            return False
        self._open()
        return True

    def begunBy(self, request: Request) -> bool:
        """Return whether this is once more the request that has begun the upload."""
        return not self.over and request.repeats(self.request)

    def repeatLater(self, instant: float) -> None:
        """Repeat nothing before this instant, unless a block comes."""
        if self.due is not None and self._seconds() < self.due < instant:
            self.setTimer(instant)

    def position(self, peer: Peer) -> tuple[int, int]:
        """Return how many blocks have come, and were acknowledged."""
        return self.blocks, self.blocks

    def clientWaits(self) -> bool:
        """Return whether the client cannot go on now: the disk is waited for."""
        return self._waitsSince is not None

    def readArrived(self) -> None:
        """Receive what has arrived at the port of the upload."""
        self.transport.readArrived()

    # What is received.

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Receive a datagram of the peer."""
        if len(datagram) == self._expectedOctets and datagram.startswith(self._expected):
            self._advance(datagram)
            return
        if self.over:
            return
        if self.onRequestPort and len(datagram) > 1 and opcode(datagram) in (RRQ, WRQ):
            self._requested(datagram, addr)
        elif self._room is None:
            self.process(self.half.receive, datagram)
        elif len(self._unread) < self._mostUnread and datagram not in self._unread:
            # The client repeats what is not acknowledged; once is enough.
            self._unread.append(datagram)

    def _advance(self, datagram: bytes) -> None:
        """
        Receive the block that the half expects: what L{process} does with it, but for what cannot be.  The half has
        nothing to repeat and has not ended, since there is progress.
        """
        half = self._predicting
        assert half is not None
        now = self._seconds()
        try:
            replies, deadline = half.advance(now)
            self._keep(datagram[len(self._expected) :])
            self.reply(replies)
            self._predict()
            if self._queue.kept or self._expectedOctets < 0:
                self.pump()
            else:
                self.setTimer(self._jittered(deadline, now))
        except Refused as error:
            self.refuse(error)
        except BaseException:
            self.fail(Failure())

    def _predict(self) -> None:
        """Find out which datagram can be received by L{_advance}: the next block, if nothing has to be waited for."""
        self._expected, self._expectedOctets = NOT_EXPECTED
        if self._predicting is None or self._room is not None or self.over:
            return
        try:
            self._expected, self._expectedOctets = self._predicting.expected() or NOT_EXPECTED
        except BaseException:
            self.fail(Failure())

    def process(self, receive: Receive, datagram: bytes) -> None:
        """As L{HalfProtocol.process}; then the next block may be received in less time."""
        super().process(receive, datagram)
        self._predict()

    def malformed(self, datagram: bytes, error: Exception) -> None:
        """As L{HalfProtocol.malformed}: log a datagram that cannot be read."""
        eventlog.malformed(self.request.peer, datagram, error)

    def mayAnswerStranger(self, address: Peer) -> bool:
        """Return whether the limits of the site allow an ERROR 5 to this address."""
        return self.site.admission.mayAnswerStranger(address[0], self._seconds())

    def peerUnreachable(self, peer: Peer) -> None:
        """Count that the client's host reports its port as closed; after L{CLOSED_PORTS} reports in a row it ends."""
        self._closedReports += 1
        if self._closedReports >= CLOSED_PORTS:
            # It is ended by the timer, as this may be called while a datagram is being sent.
            self.setTimer(self._seconds())

    def unsent(self, why: str) -> None:
        """As L{DatagramSender.unsent<castd.server.sender.DatagramSender.unsent>}."""
        self._unsentWhy, self._unsentAfter = why, self.blocks

    # The timer.

    def setTimer(self, instant: float | None) -> None:
        """Have L{timerExpired} called at this instant; L{None}: never."""
        self.site.timers.set(self, instant)

    def timerExpired(self) -> None:
        """Handle the timer, or end the upload if the client's port is closed."""
        if self.over:
            # The disk has not answered.
            self._tellEnd(self._untoldOutcome)
        elif self._closedReports >= CLOSED_PORTS:
            self.finish(outcomes.CLOSED)
        elif self._waitsSince is not None and self._seconds() >= self._waitsSince + STORE_TIMEOUT:
            self.refuse(Busy(why=f"the disk has taken nothing for {STORE_TIMEOUT:.0f} s"))
        else:
            super().timerExpired()

    def pump(self) -> None:
        """
        Poll the half, and set the timer.  While datagrams are kept the half is not polled, as it would take its client
        for silent.
        """
        if self._room is None:
            super().pump()
        elif not self.over:
            self.setTimer(self._wakeAt(self._seconds()))

    def deadline(self, now: float) -> float | None:
        """
        Return the deadline of the half with a random delay, so that the timers of many uploads do not coincide; or the
        instant at which the disk is given up.
        """
        if self._waitsSince is not None:
            return self._waitsSince + STORE_TIMEOUT
        instant = self.half.deadline(now)
        return None if instant is None else self._jittered(instant, now)

    def _jittered(self, instant: float, now: float) -> float:
        return now + (instant - now) * (1 + JITTER * self.site.random.random())

    def repeat(self, datagrams: Sequence[bytes]) -> None:
        """Send these datagrams again, and count them until the file is stored."""
        if not datagrams:
            return  # as after nearly every block
        if self._committedAt is None:
            self.repeats += len(datagrams)
        super().repeat(datagrams)

    # What is stored.

    def store(self, payload: Payload) -> None:
        """Write a payload to the upload."""
        if isinstance(payload, OffsetBlock):
            raise TypeError("an upload is written in order")
        if payload is None:
            self._closedReports = 0
            return
        if self._contest is not None:
            self._contest.claim()
            self._contest = None
        self._keep(payload)
        if self._firstBlockAt is None:
            self._firstBlockAt = self._seconds()

    def _keep(self, payload: bytes) -> None:
        """Write the payload of a block to the upload, and count the block."""
        room = self._upload.write(payload) if payload else None
        self._closedReports = 0
        self.blocks += 1
        self.octets += len(payload)
        if room is not None:
            self._room, self._waitsSince = room, self._seconds()
            room.addCallbacks(self._roomMade, self._storingFailed)

    def _roomMade(self, result: object) -> None:
        """Go on with the datagrams that came while the disk was waited for."""
        self._room = None
        if not self._committing:
            self._waitsSince = None
        while self._mayRead():
            self.process(self.half.receive, self._unread.popleft())
        self._predict()
        self.pump()

    def _mayRead(self) -> bool:
        """Return whether a datagram that was kept may be read now."""
        return bool(self._unread) and self._room is None and not self.over

    def commit(self) -> None:
        """
        Commit the upload, unless whole blocks are missing; of another length than announced a file is stored all the
        same, and the log says so.

        @raise Refused: blocks are missing; a file of that name stays as it was.
        """
        self._lastBlockAt = self._seconds()
        if (missing := self._missingBlocks()) > 0:
            size, noun = self._announcedSize(), "block" if missing == 1 else "blocks"
            raise Refused(f"{self.octets} octets came of {size}: {missing} {noun} fewer")
        self._committing = True
        self._waitsSince = self._seconds()
        maybeDeferred(self._upload.commit).addCallbacks(self._uploadCommitted, self._storingFailed)

    def _announcedSize(self) -> int | None:
        """
        Return octets of the file as announced; L{None} in netascii, where that may be the size before the conversion.
        """
        return self.half.size if self.request.mode == "octet" else None

    def _missingBlocks(self) -> int:
        """
        Return how many blocks the file is shorter than announced; 0: by no whole number of blocks, or not at all.

        A client that takes a second OACK for the first one goes on with its next octets, so what it loses are blocks.
        A file that has become shorter since it was announced hardly ever is so by whole blocks.
        """
        size = self._announcedSize()
        if size is None or not IWindowHalf.providedBy(self.half):
            return 0
        blocks, rest = divmod(size - self.octets, self.half.terms.blksize)
        return 0 if rest else blocks

    def _uploadCommitted(self, result: object) -> None:
        self._committing = False
        self._waitsSince = None
        self._committedAt = self._seconds()
        # From now on it only waits for a lost ACK: that must not keep the client's next files waiting.
        self.site.admission.leave(self, self.request.peer)
        if self.over:
            self._tellEnd(outcomes.DONE)
        else:
            try:
                self.committed()
            except BaseException:
                self.fail(Failure())
            self.pump()

    def _storingFailed(self, failure: Failure) -> None:
        self._committing = False
        self._waitsSince = None
        error = failure.value
        if not isinstance(error, Refused):
            self.fail(failure)
        elif not self.over:
            self.refuse(error)
        self._tellEnd(self._untoldOutcome)

    # The end.

    def replace(self, peer: Peer) -> None:
        """End the upload, since the machine of the peer has restarted."""
        self.finish(outcomes.REPLACED)

    def heard(self, peer: Peer) -> bool:
        """Return whether the client has sent a block: it has received the answer to its request."""
        return self.blocks > 0

    def displace(self, peer: Peer, limit: str) -> None:
        """
        End the upload of a client that has sent nothing but its request, as its place is needed.

        @param limit: the limit that is reached.
        """
        self._displacedFor = limit
        self.finish(outcomes.SILENT)

    def endIfIdle(self) -> None:
        """End an upload whose file is committed, so that the server can stop even if the last ACK was lost."""
        if self._committedAt is not None:
            self.finish(outcomes.DONE)

    def end(self, outcome: str) -> Deferred[None] | None:
        """
        End the upload, and send the client an ERROR unless the file is committed.

        @return: L{None}: it is over now.
        """
        self._tellEnd(self._untoldOutcome)
        if not self.over and self._committedAt is None:
            self.replyError(0, outcomes.FAREWELLS.get(outcome, Refused.text))
        self.finish(outcome)
        return None

    def refuse(self, error: Refused) -> None:
        """Send the client one ERROR, and end the upload."""
        self.replyError(error.code, error.text)
        self._close(None, error)

    def fail(self, failure: Failure) -> None:
        """Log the traceback of a fault of castd, and end this upload; the server goes on."""
        _log.failure("{transport}: an upload failed", failure, event="fault", transport=self.name)
        self.end(outcomes.FAILED)

    def finish(self, outcome: str) -> None:
        """End the upload with this outcome, or with C{DONE} if its file is committed."""
        self._close(outcome, None)

    def _close(self, outcome: str | None, refusal: Refused | None) -> None:
        """
        End the upload: abort or keep the file, log the end, and call C{left} and C{done}.

        @param outcome: one of the words of L{castd.outcomes}; L{None}: it was refused, by C{refusal}.
        """
        if self.over:
            return
        self.over = True
        self._predict()
        self.setTimer(None)
        if self._committedAt is not None:
            # The file is committed, even if the last ACK was lost.
            outcome = outcomes.DONE
        elif not self._committing:
            self._abort()
        elif outcome is not None and outcome != outcomes.STOPPED:
            # The file may be stored all the same.
            self._untoldOutcome = outcome
            self.setTimer(self._seconds() + STORE_TIMEOUT)
        untold = self._untoldOutcome is not None
        if not untold:
            self._logEnd(outcome, refusal)
        self._left(self)
        if not untold:
            self._done(self)

    def _tellEnd(self, outcome: str | None) -> None:
        """End an upload that was over before it was known whether its file is stored, if this is one."""
        if self._untoldOutcome is not None:
            self._untoldOutcome = None
            self.setTimer(None)
            self._logEnd(outcome, None)
            self._done(self)

    def _abort(self) -> None:
        try:
            self._upload.abort()
        except BaseException:
            _log.failure("{transport}: an upload could not be aborted", event="fault", transport=self.name)

    def _logEnd(self, outcome: str | None, refusal: Refused | None) -> None:
        """Log the one event of the upload.  What a plugin's half cannot tell is left out: the upload has to end."""
        request = self.request
        said = askPlugin(self._clientError, None, "the ERROR of a client cannot be told")
        fields: dict[str, object] = {
            "transport": self.name,
            **eventlog.requestFields(request),
            "seconds": (self._committedAt or self._seconds()) - self.opened,
            "size": askPlugin(self._announcedSize, None, "an announced size cannot be told"),
            "octets": self.octets,
            "blocks": self.blocks,
            "repeats": self.repeats,
            "granted": askPlugin(self._granted, None, "granted options cannot be told"),
            **self._blockTimes(),
            **eventlog.clientError(said),
        }
        if refusal is not None:
            verdict = verdictFields(eventlog.refusalFacts(request, request.peer, refusal))
            form = "{transport}: {peer} is refused {name} after {octets} octets: {why}"
            _log.info(form, event="refused", code=refusal.code, why=str(refusal), **fields, **verdict)
        elif outcome is not None:
            verdict = verdictFields(self._facts(outcome, said))
            form = "{transport}: {peer} {meaning}: {name} written, {octets} octets in {seconds:.3f} s, {blocks} blocks"
            meaning = outcomes.MEANING[outcome]
            _log.info(form, event="received", outcome=outcome, meaning=meaning, **fields, **verdict)

    def _granted(self) -> str | None:
        """Return the options that the client was granted; L{None}: there are none."""
        terms = self.half.terms if IWindowHalf.providedBy(self.half) else None
        return None if terms is None else eventlog.showOptions(tuple(terms.answer))

    def _clientError(self) -> tuple[int, str] | None:
        """Return code and text of the ERROR of the client; L{None}: it has sent none."""
        error = self.half.error if IReportingHalf.providedBy(self.half) else None
        return None if error is None else (error.code, error.text)

    def _blockTimes(self) -> dict[str, float]:
        """Return the seconds from the request to the first block, and to the last one of a whole file."""
        found = {"first_block": self._firstBlockAt, "last_block": self._lastBlockAt}
        return {name: instant - self.opened for name, instant in found.items() if instant is not None}

    def _facts(self, outcome: str, error: tuple[int, str] | None) -> Facts:
        """
        Return what is known of the upload, which has ended.

        @param error: code and text of the ERROR of the client.
        """
        return Facts(
            "received",
            host=self.request.peer[0],
            name=self.request.name,
            write=True,
            outcome=outcome,
            limit=self._displacedFor,
            heard=self.blocks > 0,
            singlePort=self.onRequestPort,
            clientCode=None if error is None else error[0],
            clientText="" if error is None else clip(error[1]),
            unsent=self._unsentWhy if self.blocks == self._unsentAfter else "",
        )


def fitWindow(half: IWindowHalf, holdWindow: Callable[[int, int], int]) -> int:
    """
    Grant an upload a window that its socket holds.

    @param holdWindow: as L{IDatagramPort.holdWindow}.
    @return: blocks of the window that is granted.
    @raise OSError: the system does not tell what the socket holds.
    """
    windowsize = half.terms.windowsize
    if windowsize == 1:
        return windowsize
    room = max(1, holdWindow(windowsize, HEADERS + half.terms.blksize))
    if room < windowsize:
        half.limitWindow(room)
    return min(room, windowsize)
