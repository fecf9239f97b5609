"""
C{twistd castd} and C{twist castd}: what the announcement in C{twisted/plugins} names.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    LogLevel,
    jsonFileLogObserver,
    textFileLogObserver,
)
from twisted.python import usage
from twisted.python.components import Componentized

from castd.errors import ConfigError
from castd.observe.format import MESSAGE_KEY, Observer, asMessage
from castd.observe.journal import PRIORITY
from castd.service.bootstrap import exitStatus, prepare
from castd.service.logs import Logs, jsonLog, onStream, textLog
from castd.service.privileges import UnprivilegedUser
from castd.service.service import Server


class Options(usage.Options):
    """
    The command line.

    @ivar server: everything that the service file describes, made but not started.
    """

    synopsis = "[castd options]"
    optParameters: ClassVar[list[list[object]]] = [["config", "c", None, "The service file."]]
    server: Server
    #: The options of C{twistd} or C{twist}.
    parent: Any = None

    def postOptions(self) -> None:
        """
        Read and make everything, so that a bad file is known before there is a daemon or a socket.

        @raise SystemExit: with status 78, after a line for each fault.
        """
        if not self["config"]:
            raise usage.UsageError("Which service file?  castd -c FILE")
        # Not before: the choice of --reactor has been made by now.
        from twisted.internet import reactor

        if (self.parent or {}).get("chroot"):
            # Where Python is not, nothing can be imported any more.
            import encodings.idna
            import encodings.utf_8_sig  # noqa: F401

        try:
            self.server = prepare(self["config"], reactor, self._user())
        except ConfigError as error:
            _complain(error)
            raise SystemExit(exitStatus(error)) from None

    def _user(self) -> UnprivilegedUser | None:
        """Who twistd will make of us."""
        given = self.parent or {}
        uid, gid = given.get("uid"), given.get("gid")
        if uid is None and gid is None:
            return None
        try:
            return UnprivilegedUser.of(os.getuid() if uid is None else uid, gid)
        except ValueError as error:
            raise usage.UsageError(str(error)) from None


def makeService(options: Options) -> IService:
    """
    What was made of the service file, with castd's own log, so that a flood of faults does not become one of lines.

    @raise SystemExit: with status 69, a file for the log cannot be opened.
    """
    server = options.server
    if options.parent is None:
        return server
    sys.excepthook = _oneLineEach
    server.logs = _logs(options.parent)
    # As twistd does by itself for its own log.
    threads = IReactorFromThreads(server.site.reactor)
    signal.signal(signal.SIGUSR1, lambda *_: threads.callFromThread(server.logs.rotate))
    try:
        with server.acting():
            server.logs.open(server.config)
    except ConfigError as error:
        _complain(error)
        raise SystemExit(exitStatus(error)) from None
    return Guest(server)


class Guest(MultiService):
    """A server in an application of Twisted's."""

    def __init__(self, server: Server) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.server = server
        server.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:
        """And keep the application's log, if that is castd's to keep; C{twistd --logger} is heard first."""
        if self.server.logs.keeps and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.server.logs)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]


def _logs(parent: Any) -> Logs:
    """
    -> what writes the log where it was asked for.

    @param parent: the options of C{twistd} or C{twist}.
    """
    if "fileLogObserverFactory" in parent:
        # twist has a log of its own, from a level and in a format that are its options; the lines shall be ours.
        ours = {textFileLogObserver: textLog, jsonFileLogObserver: jsonLog}
        parent["fileLogObserverFactory"] = ours.get(parent["fileLogObserverFactory"], textLog)
        return Logs()
    return Logs() if parent["logger"] else _twistd(parent)


def _twistd(parent: Any) -> Logs:
    """What C{twistd} would do by its options, in our words."""
    daemon = not (parent["nodaemon"] or parent["debug"])
    if parent["syslog"]:
        return Logs(lambda _: _syslog(parent["prefix"]))
    if parent["logfile"] == "-":
        if daemon:
            raise usage.UsageError("a daemon has no standard output to log to")
        return Logs(onStream(sys.stdout))
    # twistd will be in another folder when the first reload opens it anew.
    file = os.path.abspath(parent["logfile"]) if parent["logfile"] else None
    return Logs(onStream(sys.stdout), file, os.path.abspath("twistd.log") if daemon else None)


def _syslog(prefix: str) -> Observer:
    from twisted.python.syslog import SyslogObserver

    observer = LegacyLogObserverWrapper(SyslogObserver(prefix).emit)  # type: ignore[arg-type]

    def told(event: LogEvent) -> None:
        level, whose = event.get("log_level", LogLevel.info), event.get("log_namespace", "-")
        known = {"syslogPriority": PRIORITY.get(level, 6), "log_system": whose}
        line = {} if "log_failure" in event else {"log_format": f"{{{MESSAGE_KEY}}}", MESSAGE_KEY: asMessage(event)}
        observer({**event, **known, **line})

    return told


def _complain(error: ConfigError) -> None:
    sys.stderr.writelines(f"{fault}\n" for fault in error.faults)


def _oneLineEach(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What cannot be had is no bug: its faults, and no traceback.  twistd ends with status 1 for it."""
    if isinstance(error, ConfigError):
        _complain(error)
    else:
        sys.__excepthook__(kind, error, trace)
