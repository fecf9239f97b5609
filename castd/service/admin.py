"""
Opens the admin ports that the service file asks for: the metrics with their page, and the control socket.

A port whose address stays the same stays open over a reload.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, execute, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.config.config import Config
from castd.errors import ConfigError, Unavailable, WrongQuestion, reasonOf
from castd.files.private import clearSocket
from castd.files.threads import RunInThread, whenAll
from castd.net.connections import ConnectionLimit
from castd.observe.encoding import encodeJson
from castd.observe.report import Reporter, Sources
from castd.service.endpoints import LONGEST_PATH, metricsEndpoint
from castd.slices import Slices

if TYPE_CHECKING:
    from castd.observe.metrics import CountedEntry, Counters
    from castd.service.service import Server

_log = Logger(namespace="castd")

#: A question at the control socket: the command as C{do}, and what it is about.
Question: TypeAlias = Mapping[str, object]
#: Answers a command of the control socket: returns a value that JSON can hold, or a Deferred of one; raises
#: L{WrongQuestion} before it has begun to answer.
Answer: TypeAlias = Callable[[Question], object]

#: The most connections to the control socket at once; beyond, the oldest that asks nothing leaves for the next one.
MOST_CONNECTIONS = 16
#: Seconds that a connection to the control socket may last.
CONNECTION_TIMEOUT = 35.0


class AdminPorts:
    """
    The admin ports of one server.  A reload exchanges them, an upgrade leaves them to the next process.

    @ivar runtimeDirectory: systemd's C{RUNTIME_DIRECTORY}, where the control socket lies if the service file gives no
        path for it.
    @ivar thread: makes the text of the metrics.
    """

    def __init__(self, server: Server, answers: Mapping[str, Answer]) -> None:
        """
        @param answers: the commands of the control socket, by name.
        """
        self._server = server
        self._answers = answers
        self.runtimeDirectory: str | None = None
        self.thread: RunInThread = maybeDeferred
        self._ports: dict[str, AdminPort] = {}
        self._counters: Counters | None = None
        self._counts = False  # the counters are an observer of the log
        # The one of all metrics ports, also over reloads: it measures rates from one look to the next.
        sources = Sources(server.facts, lambda: server.addresses, server.lastFailures)
        self._reporter = Reporter(server.site.reactor, sources, server.site.slices)

    def open(self) -> None:
        """
        Open the admin ports of the service file that are not open already: in an upgrade some are opened before the
        predecessor has closed its own, and those that have the same address as its own only afterwards.

        @raise ConfigError: a port cannot be opened.
        """
        self.replace(self.bind(self._server.config), self._server.config)

    def bind(self, config: Config) -> dict[str, AdminPort]:
        """
        Open the admin ports that a service file asks for; a port that is open at the same address, and can be reached,
        is kept.

        @return: all of these ports by name, for L{replace} or L{discard}.
        @raise ConfigError: a port cannot be opened; no new port is open then.
        """
        ports = {}
        # An address of the predecessor cannot be bound before the predecessor has closed its port.
        occupied = self._server.handover.occupiedAdminAddresses()
        for name, port in self._configured(config).items():
            if occupied.get(name) == port.address:
                continue
            current = self._ports.get(name)
            kept = current is not None and current.address == port.address and current.reachable
            ports[name] = current if current is not None and kept else port
        fresh = {name: port for name, port in ports.items() if port is not self._ports.get(name)}
        try:
            for name, port in fresh.items():
                # The control socket's file belongs to the user castd will be; the metrics port may need root.
                with self._server.asEffectiveUser() if name == "control" else nullcontext():
                    port.bind(self._ports.get(name))
        except BaseException:
            self.discard(ports)
            raise
        return ports

    def discard(self, ports: dict[str, AdminPort]) -> None:
        """Close the ports that L{bind} has opened, and keep the old ones: the reload has failed."""
        for name, port in ports.items():
            if port is not self._ports.get(name):
                port.close()
        if not self._counts:
            self._counters = None

    def replace(self, ports: dict[str, AdminPort], config: Config) -> None:
        """
        Use these ports from now on, and close the others; count events if the service file asks for metrics, also where
        the predecessor still has that port.
        """
        if config.metrics.listen is None:
            self.stopCounting()
        elif not self._counts:
            self._server.batch.add(self._countersHere())
            self._counts = True
        for name, port in self._ports.items():
            if ports.get(name) is not port:
                port.close()
        self._ports = ports

    def announce(self) -> None:
        """Log each port that is open, once; called when the whole start or reload has succeeded."""
        for name, port in self._ports.items():
            if not port.announced:
                port.announced = True
                _log.info("{port} is open at {address}", event="open-port", port=name, address=port.address)

    def addresses(self) -> dict[str, str]:
        """Return the address of each open port, by its name."""
        return {name: port.address for name, port in self._ports.items()}

    def close(self) -> Deferred[None]:
        """Close all ports.  -> fires when another process can open them: the control socket's file is removed."""
        closing = [port.close() for port in self._ports.values()]
        self._ports = {}
        return whenAll(closing)

    def removeFiles(self) -> None:
        """Remove the files of the control socket after a failed start: no reactor will run to do it."""
        port = self._ports.pop("control", None)
        if port is not None:
            for file in (port.address, f"{port.address}.lock"):
                with suppress(OSError):
                    os.unlink(file)

    def stopCounting(self) -> None:
        """Remove the counters of the metrics page from the log's observers."""
        if self._counters is not None and self._counts:
            self._server.batch.remove(self._counters)
        self._counters, self._counts = None, False

    def endpoints(self, config: Config) -> dict[str, tuple[str, IStreamServerEndpoint]]:
        """
        Return the address and the endpoint of each admin port of a service file, by its name: C{metrics}, C{control}.

        @raise ConfigError: an address cannot be read, or a library that a port needs is not installed.
        """
        reactor, found = self._server.site.reactor, dict[str, tuple[str, IStreamServerEndpoint]]()
        if (listen := config.metrics.listen) is not None:
            source = config.tree.where(("metrics", "listen"))
            try:
                # Imported now: after twistd has changed the root of the file system no module can be found.
                import castd.observe.metrics
                import castd.observe.page  # noqa: F401
            except ImportError as error:
                raise ConfigError(f"{source}: it needs what pip install 'castd[metrics]' installs: {error}") from None
            try:
                found["metrics"] = listen, metricsEndpoint(reactor, listen)
            except (ValueError, ImportError) as error:
                cure = "write an address and a port, such as 127.0.0.1:9147"
                raise ConfigError(f"{source}: {listen}: {error}: {cure}") from None
        directory = self.runtimeDirectory
        path = config.control.path or (Path(directory.partition(":")[0]) / "control" if directory else None)
        if path is not None:
            if len(os.fsencode(path)) > LONGEST_PATH:
                source = config.tree.where(("control", "path"))
                raise ConfigError(f"{source}: {path}: longer than {LONGEST_PATH} octets")
            found["control"] = str(path), controlEndpoint(reactor, str(path))
        return found

    def _configured(self, config: Config) -> dict[str, AdminPort]:
        """Return the admin ports of a service file, none of them open."""
        keys = {"metrics": ("metrics", "listen"), "control": ("control", "path")}
        factories: dict[str, Callable[[], IProtocolFactory]] = {
            "metrics": self._metricsSite,
            "control": lambda: ControlFactory(self._server.site.reactor, self._answers, self._server.site.slices),
        }
        return {
            name: AdminPort(address, config.tree.where(keys[name]), where, factories[name], name == "control")
            for name, (address, where) in self.endpoints(config).items()
        }

    def _metricsSite(self) -> IProtocolFactory:
        # Imported here: prometheus_client is optional, the extra "metrics".
        from castd.observe.metrics import MetricsPage, scraper
        from castd.observe.page import pageResources
        from castd.observe.web import MetricsSite

        page = pageResources(self._server.site.reactor, self._reporter, self._pageRefusal)
        scrape = scraper(self._server.site.reactor, self._countersHere(), self._server.site.slices, self.thread)
        return MetricsSite(MetricsPage(scrape, self._readiness, page))

    def _countersHere(self) -> Counters:
        """Return the counters of all metrics ports, one after the other; L{replace} has them count."""
        from castd.observe.metrics import Counters, Gauges

        if self._counters is None:
            self._counters = Counters(self._counted, self._server.batch.flush)
            gauges = Gauges(
                self._counters.labels,
                lambda: [each.transport for each in self._server.addresses],
                self._server.site,
                lambda: [(entry.name, service) for entry, service in self._server.portServices],
            )
            self._counters.register(gauges)
        return self._counters

    def _counted(self) -> list[CountedEntry]:
        """Return the transports and services of the service file that is in force."""
        from castd.observe.metrics import CountedEntry

        services = {entry.name: entry.kind for entry, _ in self._server.portServices}
        return [CountedEntry(each.name, services.get(each.name, "")) for each in self._server.config.transports]

    def _pageRefusal(self, host: str) -> tuple[int, str] | None:
        """
        Refuse the page to a request with this host, if it may not see it.

        @return: status and text of the answer; L{None}: it may see the page.
        """
        from castd.observe.page import isLoopback

        port, wanted = self._ports.get("metrics"), self._server.config.metrics.page
        local = port is not None and isLoopback(port.host)
        if not (local if wanted is None else wanted):
            return 404, "there is no page here: metrics.page in the service file is off"
        if local and not isLoopback(host):
            # DNS rebinding: a page from elsewhere has made its own name stand for this machine.
            return 403, "ask for this page by the address 127.0.0.1, or as localhost"
        return None

    def _readiness(self) -> Deferred[str | None]:
        """Return a Deferred of the reason why requests are not answered now."""
        return self._server.lookAtDisks().addCallback(lambda _: self._server.unready())


class AdminPort:
    """
    One stream port.

    @ivar address: the text in the service file; equal texts mean the same port.
    @ivar announced: the log has said that it is open.
    """

    def __init__(
        self,
        address: str,
        source: str,
        endpoint: IStreamServerEndpoint,
        makeFactory: Callable[[], IProtocolFactory],
        local: bool,
    ) -> None:
        """
        @param makeFactory: makes what answers at this port, when it is opened.
        @param source: file, line and path of the entry that asks for this port in the service file.
        @param local: the address is the path of a local socket.
        """
        self.address = address
        self._source = source
        self._local = local
        self._endpoint = endpoint
        self._makeFactory = makeFactory
        self._port: IListeningPort | None = None
        self.announced = False

    @property
    def host(self) -> str:
        """The address that it is bound to; C{""}: it is not open, or is no port of a network."""
        return "" if self._port is None else str(getattr(self._port.getHost(), "host", ""))

    @property
    def reachable(self) -> bool:
        """Whether nobody has removed the file of the local socket, perhaps with its directory."""
        port: object = self._port
        return not isinstance(port, _ControlPort) or port.hasFile()

    def bind(self, before: AdminPort | None = None) -> None:
        """
        Open the port.

        @param before: the port of this name that is open, and stays so until the reload has succeeded.
        @raise Unavailable: the port cannot be opened.
        """
        if self._local:
            try:
                # Twisted follows a link that somebody has put in the place of the socket it has just made.
                clearSocket(self.address)
            except OSError as fault:
                raise Unavailable(f"{self._source}: {self.address}: {fault.strerror}") from None
        outcome: list[IListeningPort | Failure] = []
        self._endpoint.listen(self._makeFactory()).addBoth(outcome.append)
        (result,) = outcome
        if isinstance(result, Failure):
            why, cause = reasonOf(result.value), getattr(result.value, "socketError", None)
            if before is not None and getattr(cause, "errno", 0) == errno.EADDRINUSE:
                why += f"; if it is castd's own port at {before.address}: take another number, or restart castd"
            raise Unavailable(f"{self._source}: {self.address}: {why}")
        self._port = result

    def close(self) -> Deferred[None]:
        """
        Close the port, if it is open.  A server that is stopped keeps its admin ports until its transfers have ended,
        since they show how many are left.

        @return: fires when the port is closed, and the file of a local socket is removed.
        """
        port, self._port = self._port, None
        closing = None if port is None else port.stopListening()
        return succeed(None) if closing is None else closing


class ControlConnection(LineOnlyReceiver):
    """
    One connection to the control socket: receives a command, a line of text, and answers by a line of JSON.

    @ivar answering: see L{LimitedConnection<castd.net.connections.LimitedConnection>}.
    """

    delimiter = b"\n"
    MAX_LENGTH = 4096
    transport: ITCPTransport

    def __init__(
        self, reactor: IReactorTime, answers: Mapping[str, Answer], slices: Slices, limit: ConnectionLimit
    ) -> None:
        self.answering = False
        self._reactor = reactor
        self._answers = answers
        self._slices = slices
        self._limit = limit
        self._timeout: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timeout = self._reactor.callLater(CONNECTION_TIMEOUT, self.transport.abortConnection)
        self._limit.enter(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._limit.leave(self)
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()

    def lineReceived(self, line: bytes) -> None:
        if self.answering:
            return  # one question for each connection
        self.answering = True
        try:
            question = json.loads(line)
            answer = self._answers[question["do"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._reply(json.dumps({"error": f'ask for one of {", ".join(self._answers)}, as {{"do": "status"}}'}))
            return
        maybeDeferred(self._answerTo, answer, question).addCallback(encodeJson, self._slices).addErrback(
            self._failed
        ).addCallback(self._reply)

    def _answerTo(self, answer: Answer, question: Question) -> object:
        """Answer a question; a wrong one is a mistake of who has asked it, and no fault of castd."""
        try:
            return answer(question)
        except WrongQuestion as error:
            return {"error": str(error)}

    def _failed(self, failure: Failure) -> str:
        _log.failure("a question at the control socket failed", failure, event="fault")
        return json.dumps({"error": "a fault of castd, see its log"})

    def _reply(self, answer: str) -> None:
        self.transport.write(answer.encode() + self.delimiter)
        self.transport.loseConnection()
        # Whoever does not read the answer is idle again.
        self.answering = False


class ControlFactory(Factory):
    """Makes the connections of the control socket."""

    noisy = False

    def __init__(self, reactor: IReactorTime, answers: Mapping[str, Answer], slices: Slices) -> None:
        """@param slices: encodes the answers."""
        self._reactor = reactor
        self._answers = answers
        self._slices = slices
        self._limit = ConnectionLimit(MOST_CONNECTIONS)

    def buildProtocol(self, addr: IAddress | None) -> ControlConnection:
        made = ControlConnection(self._reactor, self._answers, self._slices, self._limit)
        made.factory = self
        return made


def controlEndpoint(reactor: object, path: str) -> IStreamServerEndpoint:
    """Return the endpoint of a local socket, which also opens where a dead server has left its file."""
    from twisted.internet.endpoints import UNIXServerEndpoint

    if isinstance(reactor, PosixReactorBase):
        return _ControlEndpoint(reactor, path)
    # One in memory, which makes no file.
    return UNIXServerEndpoint(reactor, path, mode=0o600, wantPID=True)


def _fileAt(path: str) -> tuple[int, int, int]:
    """Return what tells the file at a path from others, also from later ones of its number; L{_NO_FILE}: none."""
    try:
        status = os.lstat(path)
    except OSError:
        return _NO_FILE
    return status.st_dev, status.st_ino, status.st_mtime_ns


_NO_FILE = (0, 0, 0)


class _ControlPort(unix.Port):
    """
    A local socket whose file has its mode from the beginning: a process that may write to it may send every command,
    and a chmod would come a moment too late.  The umask stays as it is, for files that threads make meanwhile.

    When it is closed it removes the files that it has made, and no others: they may have been removed with their
    directory, and another port may have made its own there since.
    """

    def __init__(self, path: str, factory: IProtocolFactory, reactor: object) -> None:
        super().__init__(os.fsencode(path), factory, mode=0o600, reactor=reactor, wantPID=True)
        self._files = {path: _NO_FILE, f"{path}.lock": _NO_FILE}

    def startListening(self) -> None:
        """As L{unix.Port.startListening}."""
        start: Callable[[], None] = super().startListening
        start()
        self._files = {path: _fileAt(path) for path in self._files}

    def hasFile(self) -> bool:
        """Return whether the file of the socket is still there."""
        path, made = next(iter(self._files.items()))
        return _fileAt(path) == made

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and remove its files."""
        for path, made in self._files.items():
            if made != _NO_FILE and _fileAt(path) == made:
                with suppress(OSError):
                    os.unlink(path)
        # Not that of unix.Port: it would leave the socket open where the file has gone.
        tcp.Port.connectionLost(self, reason)

    def createInternetSocket(self) -> socket.socket:
        create: Callable[[], socket.socket] = super().createInternetSocket
        made = create()
        # Linux makes the file with the mode of the socket (unix_bind).
        os.fchmod(made.fileno(), self.mode)
        return made


@implementer(IStreamServerEndpoint)
class _ControlEndpoint:
    def __init__(self, reactor: object, path: str) -> None:
        self._reactor, self._path = reactor, path

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """As L{IStreamServerEndpoint.listen}."""
        return execute(self._listen, factory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        port = _ControlPort(self._path, factory, self._reactor)
        port.startListening()
        return port
