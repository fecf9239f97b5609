"""
Starts, reloads, upgrades and stops the server that a service file describes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from random import Random
from typing import TypedDict
from weakref import WeakSet

from pydantic import BaseModel
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from castd import __version__, native
from castd.config.config import Config
from castd.config.plugin import Collected
from castd.errors import ConfigError, Refused, Unavailable
from castd.files import athand
from castd.files.content import Directory, DirectoryOptions
from castd.files.presence import Presence, lookAt
from castd.files.threads import RunInThread, allWithin, asDeferred
from castd.files.uploads import UploadDirectory
from castd.interfaces import IListeningPort, IPorts
from castd.observe.batch import EventBatch
from castd.observe.eventstore import Found, Query, globEscape
from castd.observe.format import showInstant
from castd.observe.report import MOST_FAILURES, FailureReport, ServerFacts, failureReports, versions
from castd.observe.sdnotify import ServiceNotifier, ServiceWatch
from castd.observe.status import addressStatuses, countDescriptors, deafStatus, resources, serviceCounts
from castd.request import hostPort
from castd.server.random import BufferedSystemRandom
from castd.server.site import Site
from castd.service.address import ListeningAddress
from castd.service.admin import AdminPorts, Answer, Question
from castd.service.build import Components, ConfiguredSink, ServiceFileRead, build, buildSteps, kinds, read
from castd.service.explain import CLIENT_PORT, DryRequest, ExplainAnswer, explain
from castd.service.histories import Histories
from castd.service.logs import Logs
from castd.service.privileges import UnprivilegedUser
from castd.service.recorders import Recorders
from castd.service.reload import PortChange
from castd.service.rereads import PreparedDisks, Rereads
from castd.upgrade.handover import Handover

__all__ = ["Server", "compose", "kinds", "read"]

_log = Logger(namespace="castd")

#: How long a thread has the interpreter while another one wants it.  Seconds.  The reactor's thread gives it up at each
#: call of the system; beside a thread that reads a service file, lists a directory or writes the history it would wait
#: Python's usual 5 ms to get it back, each time, and a transfer would move a hundred blocks a second.
SHORT_TURN = 0.0002
#: Seconds that a stop waits for disks to remove the files of uploads that were broken off.  The next start removes the
#: others.
SETTLE_TIMEOUT = 1.0
#: The most failures of a machine that C{castd explain} tells.
MOST_BEFORE = 5


class ReloadAnswer(TypedDict):
    """The answer to C{castd reload}."""

    ok: bool
    faults: tuple[str, ...]


class HistoryAnswer(TypedDict):
    """The answer to C{castd history}."""

    entries: list[Found]


class Server(MultiService):
    """
    The server that a service file describes.  Before the start no socket is open.

    @ivar config: the service file that is in force.
    @ivar file: the absolute path of the service file.
    @ivar site: the site that all transports share.
    @ivar addresses: the addresses where it listens.
    @ivar portServices: the services of the file in force, each with its entry there.
    @ivar created: the instant at which this object was made.
    @ivar inForceAt: the instant from which on the service file is in force.
    @ivar batch: passes all events on to C{logs} and to the counters of the metrics.
    @ivar logs: the observer that writes the log and the file of events.
    @ivar histories: the observer that keeps what happened to each machine.
    @ivar recorders: the observer that writes the last packets of each transfer that failed.
    @ivar user: the user that the process becomes once the ports are bound; L{None}: the user does not change.
    @ivar draining: no new requests are taken: the server is being stopped, or another process has taken over.
    @ivar stopping: the server is being stopped.
    @ivar handover: the processes before and after this one.
    @ivar admin: the metrics with their page, and the control socket.
    @ivar thread: reads the service file for a reload.
    @ivar watch: notifies the service manager; sends nothing before L{setServiceManager}.
    """

    def __init__(self, components: Components, site: Site, collected: Collected) -> None:
        super().__init__()
        self.config = components.config
        # Absolute, since a daemon changes its working directory.
        self.file = components.config.file.absolute()
        self.site = site
        self.addresses = tuple(components.addresses.values())
        self.portServices = components.services
        self.created = self.inForceAt = site.reactor.seconds()
        self.batch = EventBatch()
        self.logs = Logs()
        self.histories = Histories(site.reactor)
        self.recorders = Recorders(site)
        self.user: UnprivilegedUser | None = None
        self.draining = self.stopping = False
        self._bound = False  # or it was tried
        self.thread: RunInThread = maybeDeferred
        self._collected = collected
        self._rereads = Rereads(self, collected)
        self._sinks = components.sinks
        # Also those of files before this one: their uploads go on.
        self._uploads = WeakSet(each.sink.uploads for each in components.sinks)
        self._presence: dict[str, Presence] = {}
        self.handover = Handover(self)
        self.watch = ServiceWatch(site.reactor, ServiceNotifier(), None, self.listeningPorts, self.statusLine)
        answers: dict[str, Answer] = {
            "status": lambda _: self._answerStatus(),
            "reload": lambda _: self._answerReload(),
            "upgrade": lambda _: self.handover.answer(),
            "history": self._answerHistory,
            "explain": self._answerExplain,
            "record": self.recorders.answer,
        }
        self.admin = AdminPorts(self, answers)
        for each in self.addresses:
            each.setServiceParent(self)

    def setServiceManager(self, notifier: ServiceNotifier, period: float | None) -> None:
        """Notify a service manager from now on, and feed its watchdog; see L{ServiceWatch}."""
        self.watch = ServiceWatch(self.site.reactor, notifier, period, self.listeningPorts, self.statusLine)

    def asEffectiveUser(self) -> AbstractContextManager[None]:
        """Take the effective ids of C{user} while the context is entered."""
        return nullcontext() if self.user is None else self.user.asEffectiveUser()

    # Start and stop.

    def privilegedStartService(self) -> None:
        """
        Open the logs, and bind all ports, or none.  Nothing is said of them before L{startService}: the start may fail
        yet, as when the user cannot be changed.

        @raise ConfigError: with each port that cannot be bound.
        """
        self._bound = True
        faults: list[str] = []
        steps: list[Callable[[], object]] = [self._openLogs, self.admin.open]
        for step in [*steps, *(service.privilegedStartService for service in self)]:
            try:
                step()
            except ConfigError as error:
                faults += error.faults
        if faults:
            if self.handover.predecessor is not None:
                self.handover.predecessor.refuse(faults)
            self.admin.removeFiles()
            self.stopService()
            raise Unavailable(*faults)

    def _openLogs(self) -> None:
        """
        Open the log files, the history and the recorder.  This waits for the start, since C{castd check} must leave no
        file behind.
        """
        self.logs.clock = self.site.reactor
        faults: list[str] = []
        with self.asEffectiveUser():
            for opened in (self.logs, self.histories, self.recorders):
                try:
                    opened.open(self.config)
                except ConfigError as error:
                    faults += error.faults
        if faults:
            raise Unavailable(*faults)
        self._observe()

    def _observe(self) -> None:
        """Pass all events on to the observers of this server."""
        self.logs.catchUp = self.batch.flush
        # A command line that gives the process its log has added it to the publisher before.
        globalLogPublisher.removeObserver(self.logs)
        self.batch.add(self.logs, self.logs.together)
        self.batch.start(self.site.reactor, self._mayKeepEvents)
        # The history writes in batches of its own, and the recorder needs packets that are forgotten with the transfer.
        for observer in (self.batch, self.histories, self.recorders):
            globalLogPublisher.addObserver(observer)

    def _mayKeepEvents(self) -> bool:
        """
        Return whether the events of finished transfers may be logged a moment later: no other process logs between.
        """
        alone = not (self.draining or self.handover.busy or self.site.predecessor is not None)
        return alone and self.logs.mayWait

    def startService(self) -> None:
        """
        Serve requests, and remove the unfinished uploads that a crash has left.

        @raise ConfigError: as L{privilegedStartService}, if there was no privileged phase.
        """
        if not self._bound:
            self.privilegedStartService()
        sys.setswitchinterval(SHORT_TURN)
        super().startService()
        if self.handover.predecessor is None:
            self._announceServing()
        form, file, loop = "castd {version} serves by {file} ({loop})", str(self.file), native.describe()
        _log.info(form, event="started", version=__version__, file=file, loop=loop, pid=os.getpid())
        if native.WORTH_A_WARNING:
            _log.warn("the native loop is not used: {why}", event="unused-loop", why=native.REASON)
        if why := athand.refusal():
            _log.warn("each file is opened in a thread, as openat2 is refused: {why}", event="unused-openat2", why=why)
        self.removeAbandoned()

    def removeAbandoned(self) -> None:
        """Remove the unfinished uploads of processes that have crashed, before this one or beside it."""
        _removeAbandoned(self._sinks)

    def _announceServing(self) -> None:
        """
        Log where this process listens, notify the service manager, and close the passed sockets that nothing uses.
        """
        for each in self.addresses:
            each.announce()
        self.admin.announce()
        self.watch.start()
        for host, port in self.site.ports.reconcileStore():
            _log.info("{address} is not served any more", event="closed-port", address=hostPort((host, port)))

    def stopService(self) -> Deferred[object]:
        """Return a Deferred that fires when all transfers have ended, all ports are closed, and the log is written."""
        self.draining = self.stopping = True
        self.site.attempts.forgetSizes()
        self.logs.followNames(True)
        if self.handover.successor is not None:
            self.handover.successor.abandon()
        self.site.ports.freezeStore(True)
        self.watch.stopping(self.site.limits.drain)
        return super().stopService().addBoth(self._removeUnfinished).addBoth(self._stopped)

    def logStopping(self, signal: str, first: bool) -> None:
        """
        Log that the server stops.

        @param signal: the name of the signal that says so.
        @param first: C{False}: it is being stopped already.
        """
        transfers = self.site.admission.casts
        form = "castd stops by {signal}: {transfers} transfers have {seconds:g} s to end"
        if not first:
            form = "castd is stopping already, {signal} changes nothing: {transfers} transfers are left"
        fields: dict[str, object] = {"transfers": transfers, "seconds": self.site.limits.drain}
        if self.site.predecessor is not None:
            # It is stopped with this process, which counts its own transfers only.
            form, fields["before"] = f"{form}, and those of process {{before}}", self.site.predecessor.pid
        _log.info(form, event="stopping", signal=signal, **fields)

    def rotateLogs(self) -> None:
        """Begin new log files, or go on in those of a program that has renamed the old ones."""
        self.logs.rotate()

    def _removeUnfinished(self, result: object) -> Deferred[object]:
        """Wait until the files of uploads that were broken off are removed, but not for a disk that hangs."""
        settling = allWithin([each.settled() for each in self._uploads], SETTLE_TIMEOUT, self.site.reactor)
        return settling.addCallback(lambda _: result)

    def _stopped(self, result: object) -> Deferred[object]:
        _log.info("castd has stopped", event="stopped")
        self.watch.stop()
        self._observeNoMore()
        closed = self.admin.close().addCallback(lambda _: self.histories.close())
        closed.addCallback(lambda _: self.recorders.close())
        return closed.addCallback(lambda _: result)

    def _observeNoMore(self) -> None:
        """Write what is to be written; only a log that the command line has given to the process goes on."""
        self.batch.stop()
        self.logs.flush()
        self.batch.remove(self.logs)
        self.admin.stopCounting()
        for observer in (self.batch, self.histories, self.recorders):
            globalLogPublisher.removeObserver(observer)
        if self.logs.keepsLog:
            globalLogPublisher.addObserver(self.logs)
        else:
            self.logs.close()

    # Status.

    def listeningPorts(self) -> list[tuple[str, IListeningPort]]:
        """Return the ports that requests are read from, each with its address as text."""
        return [(each.address, each.port) for each in self.addresses if each.port is not None and not each.port.paused]

    def warnings(self) -> Iterator[str]:
        """Return the warnings of the services for C{castd check}, each as C{file:line: path: what}."""
        for entry, service in self.portServices:
            for text in service.warnings():
                yield entry.describe(text)

    def statusLine(self) -> str:
        """Return a summary in one line, for the service manager."""
        admission = self.site.admission
        return f"{self._state()}: {admission.casts} transfers, {admission.receivers.total()} receivers"

    def _state(self) -> str:
        return "draining" if self.draining else "serving"

    def unready(self) -> str | None:
        """Return the reason why requests are not answered now; L{None}: they are answered."""
        if self.draining:
            return "draining"
        # One that a reload has taken out of the service file ends its transfers only.
        required = [each for each in self.addresses if each.required and not each.retiring]
        if any(each.port is None for each in required):
            return "not every port is open"
        for each in required:
            if not self.site.ports.isOurs(each.bindAddress[0]):
                return f"no interface has the address of {each.address}"
        for name, presence in self._presences():
            fault = presence.fault()
            if fault is not None:
                return f"{name} {fault}"
        return None

    def lookAtDisks(self) -> Deferred[None]:
        """
        Find out whether the directories of content are there, for L{unready}.  -> fires soon, also if a disk hangs.
        """
        return lookAt([presence for _, presence in self._presences()], self.site.reactor, self.site.slices)

    def _presences(self) -> list[tuple[str, Presence]]:
        """
        Return what is known of each directory of content, by the name of its entry in the service file.  What is known
        of others is forgotten: a reload has taken them out of it.
        """
        known, self._presence = self._presence, {}
        found = []
        for entry in self.config.content:
            if isinstance(entry.options, DirectoryOptions):
                path = str(entry.options.base)
                presence = self._presence.get(path) or known.get(path) or Presence(path, self.site.reactor)
                self._presence[path] = presence
                found.append((entry.name, presence))
        return found

    def beginStatus(self) -> tuple[dict[str, object], Iterator[None]]:
        """
        Return the state of the server, and the steps that add its transfers, see L{addressStatuses}, and count its
        descriptors.  All else, such as the counts of C{held}, is of the instant of this call: a transfer that ends
        during the steps is in both.
        """
        self.batch.flush()
        now = self.site.reactor.seconds()
        addresses, steps = addressStatuses(self.addresses, self.site.reactor.seconds)
        held = {"descriptors": 0, **resources(self.site, self.logs.pendingCalls + self.histories.pendingCalls)}
        status: dict[str, object] = {
            "version": __version__,
            "pid": os.getpid(),
            "file": str(self.file),
            "sha256": self.config.tree.digest,
            "inForceSeconds": round(now - self.inForceAt, 3),
            "state": self._state(),
            "unready": self.unready(),
            "before": None if self.site.predecessor is None else self.site.predecessor.pid,
            "seconds": round(now - self.created, 3),
            "addresses": addresses,
            "deaf": deafStatus(self.site),
            "services": {entry.name: serviceCounts(service) for entry, service in self.portServices},
            "held": held,
            "history": {"path": self.histories.path, "lost": self.histories.lost},
            "log": self.logs.counts()._asdict(),
            "recorder": self.recorders.status(),
        }
        return status, chain(countDescriptors(held), steps)

    def facts(self, wallTime: float) -> ServerFacts:
        """Return what the page says of the server; C{wallTime}: seconds since 1970."""
        now = self.site.reactor.seconds()
        return {
            **versions(self.site.reactor),
            "pid": os.getpid(),
            "state": self._state(),
            "unready": self.unready(),
            "since": showInstant(wallTime - (now - self.created)),
            "file": str(self.file),
            "sha256": self.config.tree.digest,
            "inForce": showInstant(wallTime - (now - self.inForceAt)),
            "history": self.histories.path,
            "lost": self.histories.lost,
        }

    def lastFailures(self, most: int) -> Deferred[list[Found]]:
        """
        Return so many of the last failures of the history, the oldest first.  Those that are alike are one: a machine
        that asks again and again must not displace the others.
        """
        return self.histories.find(Query(failed=True, limit=most, merged=True))

    def _answerHistory(self, question: Question) -> Deferred[HistoryAnswer]:
        """
        Answer C{castd history}.

        @raise WrongQuestion: the question names what a L{Query} does not have.
        """
        return self.histories.find(Query.read(question)).addCallback(lambda found: {"entries": found})

    def _answerExplain(self, question: Question) -> Deferred[ExplainAnswer]:
        """
        Answer C{castd explain --running}.

        @raise WrongQuestion: no client could send the request in question.
        """
        asked = DryRequest.read(question)
        asked.datagram()
        return Deferred.fromCoroutine(self._explainRunning(asked))

    async def _explainRunning(self, asked: DryRequest) -> ExplainAnswer:
        """Explain a request, with what is known of its machine, and what has failed for it before."""
        answer = await self.explain(asked)
        machine = await asDeferred(self.site.machines.machineOf((asked.client, CLIENT_PORT)))
        query = Query(
            asked.client.partition("%")[0], globEscape(asked.name), failed=True, limit=MOST_BEFORE, merged=True
        )
        before = await failureReports(self.site.reactor, self.histories.find(query))
        answer["machine"] = {"mac": machine.mac, "uuid": machine.uuid, "arch": machine.arch}
        answer["before"] = before
        return answer

    def explain(self, asked: DryRequest) -> Deferred[ExplainAnswer]:
        """Explain what a request would get now; none is served, and nothing waits for it."""
        return explain(self.config, self.site, self.addresses, self.draining, asked)

    def _answerStatus(self) -> Deferred[dict[str, object]]:
        failures = failureReports(self.site.reactor, self.lastFailures(MOST_FAILURES))

        def answer(found: list[FailureReport] | None) -> Deferred[dict[str, object]]:
            status, steps = self.beginStatus()
            return self.site.slices.run(steps).addCallback(lambda _: {**status, "failures": found})

        return self.lookAtDisks().addCallback(lambda _: failures).addCallback(answer)

    # Upgrade: what castd.upgrade.upgradable.UpgradableServer promises.

    def adminAddresses(self) -> dict[str, str]:
        """Return the addresses of the admin ports that are open, by name."""
        return self.admin.addresses()

    def stopServing(self) -> Deferred[None]:
        """Leave new requests to another process.  -> fires when that process can open the admin ports."""
        self.draining = True
        self.site.attempts.forgetSizes()
        self.batch.flush()
        self.logs.followNames(True)
        self.site.ports.freezeStore(True)
        return self.admin.close()

    def startServing(self) -> None:
        """Take over as the process that serves: open the admin ports, and notify the service manager."""
        try:
            self.admin.open()
        except ConfigError as error:
            for fault in error.faults:
                _log.error("{fault}", event="fault", fault=fault)
        self._announceServing()

    def resumeServing(self) -> None:
        """Serve as before L{stopServing}: the other process has died."""
        self.draining = False
        self.logs.followNames(False)
        self.site.ports.freezeStore(False)
        for each in self.addresses:
            each.resume()
        self.watch.takeBack()
        self.startServing()
        self.removeAbandoned()

    def leaveWatch(self, pid: int) -> None:
        """Tell the service manager that the process to watch is another one."""
        self.watch.leave(pid)

    # Reload.

    def _answerReload(self) -> Deferred[ReloadAnswer]:
        return self.reread().addCallback(_reloadAnswer)

    def reread(self) -> Deferred[tuple[str, ...]]:
        """Read the service file again and put it in force; as L{Rereads.ask}."""
        return self._rereads.ask()

    def refusesReload(self) -> str | None:
        """Return why no file is put in force now; L{None}: one may be."""
        return self.handover.refusal

    def directoriesInUse(self) -> Mapping[BaseModel, Directory | UploadDirectory]:
        """As L{Reloadable.directoriesInUse<castd.service.rereads.Reloadable.directoriesInUse>}."""
        return {each.options: each for each in self._directories()}

    def beginReload(self, file: ServiceFileRead) -> tuple[Components, Iterator[None]]:
        """As L{Reloadable.beginReload<castd.service.rereads.Reloadable.beginReload>}."""
        components = Components(file.config, file.rules)
        sources = self.site.content.sources
        return components, buildSteps(components, file, self._collected, self.site, self._sinks, sources)

    def prepareDisks(self, config: Config) -> PreparedDisks:
        """As L{Reloadable.prepareDisks<castd.service.rereads.Reloadable.prepareDisks>}."""
        prepared = PreparedDisks()
        # The history last: a fault of castd here leaves none open.
        with prepared.noting():
            self.recorders.check(config)
        with prepared.noting():
            prepared.history = self.histories.prepare(config)
        return prepared

    def reload(self, components: Components, prepared: PreparedDisks | None = None) -> None:
        """
        Put another service file in force.  Transfers under way keep what they began with.

        @param components: what the file names, made by the steps of L{beginReload}.
        @param prepared: by L{prepareDisks}; L{None}: it is done now.
        @raise ConfigError: the file cannot be put in force, such as when a port cannot be bound; nothing has changed.
        """
        config = components.config
        with ExitStack() as undo:
            # On any error, also a fault of a plugin: what stays open could not be opened by the next reload.
            admin = self.admin.bind(config)
            undo.callback(self.admin.discard, admin)
            outputs = self.logs.openOutputs(config)
            undo.callback(outputs.close)
            prepared = self.prepareDisks(config) if prepared is None else prepared
            undo.callback(prepared.discard)
            prepared.raiseFaults()
            PortChange(self.addresses, components.addresses).bind()
            undo.pop_all()
        self.logs.replace(outputs)
        # Whatever fails from here on, the history is in force: who discards what was prepared must not close it.
        history, prepared.history = prepared.history, None
        self.histories.replace(history, config)
        self.recorders.use(config)
        self.admin.replace(admin, config)
        self.admin.announce()
        # What a crash has left in a directory that was not in the file at the start.
        fresh = [each for each in components.sinks if each not in self._sinks]
        before = self._directories()
        self.config, self._sinks, self.portServices = config, components.sinks, components.services
        self._uploads.update(each.sink.uploads for each in fresh)
        self.inForceAt = self.site.reactor.seconds()
        self.site.adjust(config.limits)
        components.openSite(self.site)
        self._changeAddresses(components)
        self.site.ports.reconcileStore()
        _removeAbandoned(fresh)
        for each in before - self._directories():
            # Somebody may want to unmount it now.
            each.release()

    def _directories(self) -> set[Directory | UploadDirectory]:
        """Return the directories that are served and written to."""
        sources = (each for each in self.site.content.sources if isinstance(each, Directory))
        return {*sources, *(each.sink for each in self._sinks)}

    def _changeAddresses(self, components: Components) -> None:
        """Listen at these addresses, whose ports are open, and retire all others."""
        current, wanted = {each.bindAddress: each for each in self.addresses}, components.addresses
        for bindAddress, fresh in wanted.items():
            if bindAddress in current:
                current[bindAddress].become(fresh)
            else:
                fresh.setServiceParent(self)
            current.get(bindAddress, fresh).announce()
        vanished = [each for bindAddress, each in current.items() if bindAddress not in wanted]
        self.addresses = (*(current.get(bindAddress, fresh) for bindAddress, fresh in wanted.items()), *vanished)
        for each in vanished:
            if not each.retiring:
                each.retire().addCallback(self._retired, each)

    def _retired(self, _: object, vanished: ListeningAddress) -> None:
        self.addresses = tuple(each for each in self.addresses if each is not vanished)
        vanished.disownServiceParent()
        _log.info("{address} is closed", event="closed-port", address=vanished.address)


def _reloadAnswer(faults: tuple[str, ...]) -> ReloadAnswer:
    return {"ok": not faults, "faults": faults}


def _removeAbandoned(sinks: Iterable[ConfiguredSink]) -> None:
    for each in sinks:
        each.sink.removeAbandoned().addErrback(_removalFailed)


def _removalFailed(failure: Failure) -> None:
    """Log that unfinished uploads could not be removed: they do no harm, and the next start tries again."""
    if failure.check(OSError, Refused) is None:
        _log.failure("unfinished uploads are still there", failure, event="fault")
    else:
        _log.warn("unfinished uploads may still be there: {why}", event="unswept", why=str(failure.value))


def compose(
    config: Config, collected: Collected, reactor: IReactorTime, ports: IPorts, random: Random | None = None
) -> Server:
    """
    Make the server that a service file describes, without opening a socket.

    @param ports: makes the ports of the server, once it is started.
    @param random: the source of all randomness; L{None}: the system's.
    @raise ConfigError: with a fault for each entry that cannot be made.
    """
    site = Site(reactor, random or BufferedSystemRandom(), ports, config.limits)
    components = build(ServiceFileRead.of(config), collected, site)
    components.openSite(site)
    server = Server(components, site, collected)
    # Made now, so that faults in the addresses of admin ports are found before the start.
    server.admin.endpoints(config)
    return server
