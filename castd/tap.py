"""
Makes castd a plugin of Twisted, for C{twistd castd} and C{twist castd}; C{twisted/plugins} announces this module.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import TracebackType
from typing import ClassVar

from twisted.application.service import IService, IServiceCollection, MultiService
from twisted.logger import ILogObserver, jsonFileLogObserver, textFileLogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from castd.errors import ConfigError
from castd.files.names import printable
from castd.observe.syslog import SyslogObserver, SyslogSocket
from castd.service.bootstrap import exitStatus, prepare
from castd.service.logs import Logs, MakeObserver, jsonLog, logTo, textLog
from castd.service.privileges import UnprivilegedUser
from castd.service.service import Server


class Options(usage.Options):
    """
    The options behind C{twistd castd}.

    @ivar server: the server that the service file describes, not started.
    @ivar parent: the options of C{twistd} or C{twist} itself.
    """

    synopsis = "[castd options]"
    optParameters: ClassVar[list[list[object]]] = [["config", "c", None, "The service file."]]
    server: Server
    parent: usage.Options | None = None

    def postOptions(self) -> None:
        """
        Read the service file and make its server, so that a fault is found before twistd forks or opens a socket.

        @raise SystemExit: with status 78 or 69, after a line for each fault.
        """
        if not self["config"]:
            raise usage.UsageError("Which service file?  castd -c FILE")
        # Imported here, since --reactor has been applied by now.
        from twisted.internet import reactor

        if self.parent is not None and self.parent.get("chroot"):
            # Imported before the chroot: no module can be found there.
            import encodings.idna
            import encodings.utf_8_sig  # noqa: F401

        try:
            self.server = prepare(self["config"], reactor, self._user())
        except ConfigError as error:
            _complain(error)
            raise SystemExit(exitStatus(error)) from None

    def _user(self) -> UnprivilegedUser | None:
        """Return the user that twistd is going to switch to."""
        if self.parent is None:
            return None
        uid, gid = self.parent.get("uid"), self.parent.get("gid")
        if uid is None and gid is None:
            return None
        try:
            return UnprivilegedUser.byId(os.getuid() if uid is None else uid, gid)
        except ValueError as error:
            raise usage.UsageError(str(error)) from None


def makeService(options: Options) -> IService:
    """
    Return the server, which writes the log itself in order to limit equal lines.

    @raise SystemExit: with status 69: a log file cannot be opened.
    """
    server = options.server
    if options.parent is None:
        return server
    sys.excepthook = _excepthook
    server.logs = _logs(options.parent)
    try:
        with server.asEffectiveUser():
            server.logs.open(server.config)
    except ConfigError as error:
        _complain(error)
        raise SystemExit(exitStatus(error)) from None
    return ApplicationService(server)


class ApplicationService(MultiService):
    """A service of a Twisted application that holds the server."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        server.setServiceParent(self)

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join the application, and write its log unless C{twistd --logger} names another observer."""
        application: object = parent
        if self.server.logs.keepsLog and isinstance(application, Componentized):
            application.setComponent(ILogObserver, self.server.logs)
        super().setServiceParent(parent)


def _logs(parent: usage.Options) -> Logs:
    """
    Return the outputs of the log that the command line asks for.

    @param parent: the options of C{twistd} or C{twist}.
    """
    if "fileLogObserverFactory" in parent:
        # twist filters and writes the log by its own options; castd only formats the lines.
        observers = {textFileLogObserver: textLog, jsonFileLogObserver: jsonLog}
        parent["fileLogObserverFactory"] = observers.get(parent["fileLogObserverFactory"], textLog)
        return Logs()
    return Logs() if parent["logger"] else _twistdLogs(parent)


def _twistdLogs(parent: usage.Options) -> Logs:
    """Return the outputs of the log, at the place where C{twistd} would write it by these options."""
    daemon = not (parent["nodaemon"] or parent["debug"])
    if parent["syslog"]:
        return Logs(_syslog(parent["prefix"]))
    if parent["logfile"] == "-":
        if daemon:
            raise usage.UsageError("a daemon has no standard output to log to")
        return Logs(logTo(sys.stdout))
    # Absolute, since twistd changes its folder before the first reload opens the file anew.
    file = os.path.abspath(parent["logfile"]) if parent["logfile"] else None
    return Logs(logTo(sys.stdout), file, os.path.abspath("twistd.log") if daemon else None)


def _syslog(prefix: str) -> MakeObserver:
    """Return a function that makes an observer that writes to the system's log."""

    @cache
    def log() -> SyslogSocket:
        # Made when it is needed, and once: the name may be out of reach later.
        return SyslogSocket()

    return lambda _: SyslogObserver(prefix, log())


def _complain(error: ConfigError) -> None:
    sys.stderr.writelines(f"{printable(fault)}\n" for fault in error.faults)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the faults of a L{ConfigError} without a traceback, since it is no bug; twistd exits with status 1."""
    if isinstance(error, ConfigError):
        _complain(error)
    else:
        sys.__excepthook__(kind, error, trace)
