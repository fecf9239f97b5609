"""
Runs the flight recorder that the service file asks for: writes a capture of each transfer that fails, and answers
C{castd record}.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from base64 import b64encode
from functools import partial
from typing import TypedDict

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import __version__
from castd.config.config import Config
from castd.errors import Unavailable, WrongQuestion, reasonOf
from castd.files.permission import writeFault
from castd.files.threads import RunInThread, allWithin
from castd.observe.captures import CaptureFolder, CaptureRate, captureName
from castd.observe.format import asMessage
from castd.observe.history import isFailure
from castd.packets.pcapng import Captured, section
from castd.server.recorder import Recorder, Ring, Selection, Taken
from castd.server.site import Site
from castd.service.admin import Question

_log = Logger(namespace="castd")

#: The name of the program in captures.
_APPLICATION = f"castd {__version__}"
#: Captures that wait for the disk at once; beyond, they are counted only.
MOST_WAITING = 64
#: The most packets in one answer to C{castd record}: the latest.
MOST_ASKED = 16384
#: The most seconds that one question of C{castd record} waits: less than its connection may last.
LONGEST = 20.0
#: Seconds that a stop waits for the disk.
PATIENCE = 2.0


class RecordAnswer(TypedDict):
    """
    The answer to C{castd record}.

    @ivar capture: the capture, in base64; empty: there were no packets.
    @ivar packets: how many packets are in it.
    @ivar until: the instant to ask from the next time.
    """

    capture: str
    packets: int
    until: float


@implementer(ILogObserver)
class Recorders:
    """
    The recorder of one server, and an observer of the log: an event that says that a transfer has failed has its
    packets written.

    @ivar thread: runs what waits for the disk; the default, for a virtual reactor, runs it at once.
    @ivar written: how many captures were written.
    @ivar lost: how many were not, as the disk has failed or was too slow.
    @ivar omitted: how many were not, as there were too many in a minute.
    """

    def __init__(self, site: Site) -> None:
        self.thread: RunInThread = maybeDeferred
        self.written = self.lost = self.omitted = 0
        self._site = site
        self._recorder = Recorder(site.reactor)
        self._rate = CaptureRate()
        self._folder: CaptureFolder | None = None
        self._writing: set[Deferred[None]] = set()

    def open(self, config: Config) -> None:
        """
        Record what the service file asks for.

        @raise Unavailable: nothing can be written to the folder.
        """
        self.check(config)
        self.use(config)

    def check(self, config: Config) -> None:
        """@raise Unavailable: nothing can be written to the folder of this service file."""
        directory = config.recorder.directory
        if directory is None:
            return
        try:
            fault = 0 if stat.S_ISDIR(directory.stat().st_mode) else errno.ENOTDIR
            fault = fault or writeFault(directory, os.R_OK | os.W_OK | os.X_OK)
        except (OSError, ValueError) as error:
            fault = getattr(error, "errno", None) or errno.ENOENT
        if fault:
            raise Unavailable(f"{config.tree.where(('recorder', 'directory'))}: {directory}: {os.strerror(fault)}")

    def use(self, config: Config) -> None:
        """Record what this service file asks for, of the transfers that begin from now on."""
        options = config.recorder
        if options.directory is None:
            self._site.recorder = self._folder = None
            return
        self._recorder.adjust(options.packets, options.memory, options.payload)
        self._site.recorder = self._recorder
        self._folder = CaptureFolder(str(options.directory), options.files, options.size)

    def status(self) -> dict[str, object]:
        """Return the state of the recorder, as plain data."""
        return {
            "directory": None if self._folder is None else self._folder.path,
            "rings": self._recorder.rings,
            "unkept": self._recorder.unkept,
            "written": self.written,
            "lost": self.lost,
            "omitted": self.omitted,
        }

    def __call__(self, event: LogEvent) -> None:
        if self._folder is None or not isFailure(event):
            return
        self._recorder.unserved(event.get("peer"), event.get("name"), asMessage(event))
        ring = self._recorder.find(event.get("transport"), event.get("peer"), event.get("event"))
        if ring is not None:
            self._write(self._folder, ring, event)

    def _write(self, folder: CaptureFolder, ring: Ring, event: LogEvent) -> None:
        """Have the packets of a transfer that has failed written."""
        # The comment of the capture, at the file and at the last packet, is the line of the log, with the verdict.
        (host, port), now = ring.key, event.get("log_time", 0.0)
        if not self._rate.allows(host, ring.heard, self._site.reactor.seconds()):
            self.omitted += 1
            return
        if len(self._writing) >= MOST_WAITING:
            self.lost += 1
            return
        packets = ring.tape.capture(ring.tape.packets(ring.key), now - self._site.reactor.seconds())
        name = captureName(now, host, port, str(event.get("outcome", event.get("event"))), ring.heard)
        writing = self.thread(partial(_writeCapture, folder, name, packets, asMessage(event)))
        done = writing.addCallbacks(self._captureWritten, self._captureLost, errbackArgs=(folder,))
        if not done.called:
            self._writing.add(done)
            done.addCallback(lambda _: self._writing.discard(done))

    def _captureWritten(self, path: str) -> None:
        self.written += 1
        _log.debug("{path}: the last packets of a transfer that failed", event="recorded", path=path)

    def _captureLost(self, failure: Failure, folder: CaptureFolder) -> None:
        self.lost += 1
        error = failure.value
        if isinstance(error, OSError):
            form = "{path}: no capture could be written: {why}"
            _log.warn(form, event="unrecorded", path=folder.path, why=reasonOf(error))
        else:
            _log.failure("a capture was not written", failure, event="fault")

    def answer(self, question: Question) -> Deferred[RecordAnswer]:
        """
        Return the last packets of the transfers under way that are asked for; after C{seconds}, if they are named, and
        then also those of transfers that have ended meanwhile.

        @raise WrongQuestion: no packets are kept, or the question cannot be read.
        """
        if self._folder is None:
            raise WrongQuestion("no packets are kept: name a folder in the service file, recorder: {directory: …}")
        selection, seconds = _selection(question), question.get("seconds", 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST:
            raise WrongQuestion(f"seconds: between 0 and {LONGEST:.0f}")
        if not seconds:
            return succeed(None).addCallback(lambda _: self._take(selection))
        self._recorder.wait()
        taken = deferLater(self._site.reactor, seconds, self._take, selection)
        return taken.addBoth(self._waited)

    def _waited(self, result: Deferred[RecordAnswer] | Failure) -> Deferred[RecordAnswer] | Failure:
        self._recorder.stopWaiting()
        return result

    def _take(self, selection: Selection) -> Deferred[RecordAnswer]:
        now = self._site.reactor.seconds()
        return self.thread(partial(_answerOf, self._recorder.take(selection), now, time.time() - now))

    def close(self) -> Deferred[None]:
        """Have the captures written that wait, if the disk answers in time."""
        return allWithin(self._writing, PATIENCE, self._site.reactor)


def _writeCapture(folder: CaptureFolder, name: str, packets: list[Captured], comment: str) -> str:
    return folder.write(name, section(packets, comment, _APPLICATION))


def _answerOf(taken: Taken, now: float, offset: float) -> RecordAnswer:
    packets = taken.latest(MOST_ASKED, offset)
    capture = b64encode(section(packets, "", _APPLICATION)).decode() if packets else ""
    return {"capture": capture, "packets": len(packets), "until": now}


def _selection(question: Question) -> Selection:
    """@raise WrongQuestion: it asks for what there is not."""
    address, name = question.get("client"), question.get("name")
    since = question.get("since")
    for key, value in (("client", address), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise WrongQuestion(f"{key}: {value} cannot be asked for")
    if since is not None and not (isinstance(since, int | float) and abs(since) <= sys.maxsize):
        raise WrongQuestion(f"since: {since} is no instant")
    return Selection(
        None if address is None else str(address),
        None if name is None else str(name),
        float("-inf") if since is None else float(since),
    )
