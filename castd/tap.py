"""
C{twistd castd}: what the announcement in C{twisted/plugins} names.
"""

from __future__ import annotations

import sys
from typing import ClassVar

from twisted.application.service import IService
from twisted.python import usage

from castd.errors import ConfigError
from castd.run import prepare
from castd.service import Server


class Options(usage.Options):
    """
    The command line.

    @ivar server: everything that the service file describes, made but not started.
    """

    synopsis = "[castd options]"
    optParameters: ClassVar[list[list[object]]] = [["config", "c", None, "The service file."]]
    server: Server

    def postOptions(self) -> None:
        """
        Read and make everything, so that a bad file is known before there is a daemon or a socket.

        @raise SystemExit: with status 1, after a line for each fault.
        """
        if not self["config"]:
            raise usage.UsageError("Which service file?  castd -c FILE")
        # Not before: the choice of --reactor has been made by now.
        from twisted.internet import reactor

        try:
            self.server = prepare(self["config"], reactor)
        except ConfigError as error:
            sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
            raise SystemExit(1) from None


def makeService(options: Options) -> IService:
    """What was made of the service file."""
    return options.server
