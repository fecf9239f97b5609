"""
The site: what all transports of one server share, with files, uploads and access rules behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from castd.errors import Forbidden
from castd.files.access import Rule, Rules
from castd.files.content import SourceChain
from castd.files.directory import SinkChain
from castd.files.netascii import NetasciiConverter
from castd.interfaces import IContent, IContentSink, ISite
from castd.request import Request
from castd.server.commons import Commons


@implementer(ISite)
class Site(Commons):
    """
    L{Commons}, and where files come from and go to.

    @ivar content: an L{IContentSource}: all sources in their order.
    @ivar drops: the places for uploads, by mode; empty: writes are off.
    @ivar rules: who may have what; L{None}: everybody may read everything, and nobody write.
    """

    content: Any = SourceChain(())
    drops: dict[str, SinkChain]
    rules: Rules | None

    def open(self, sources: Iterable[Any], sinks: Iterable[Any], rules: Sequence[Rule] | None) -> None:
        """
        Serve from these sources and into these sinks, by these rules.  What has been looked up before goes on.

        @param sources: each an L{IContentSource<castd.interfaces.IContentSource>}.
        @param sinks: each an L{IContentSink}.
        @param rules: L{None}: the service file says nothing of access.
        """
        self.content = SourceChain(sources)
        kept = tuple(sinks)
        self.drops = {mode: SinkChain(kept, mode) for mode in ("octet", "netascii")} if kept else {}
        self.rules = None if rules is None else Rules(rules)
        self._converter = NetasciiConverter()

    def lookup(self, request: Request) -> Deferred[IContent]:
        """Access rules, then the sources in order, then netascii if that was asked for; see L{ISite}."""
        found: Deferred[Any] = maybeDeferred(self._find, request)
        if request.mode == "netascii":
            found.addCallback(self._converter.convert)
        return found

    def _find(self, request: Request) -> Any:
        if self.rules is not None:
            self.rules.check(request.peer[0], request.name)
        return self.content.lookup(request.name, request.peer)

    def sink(self, request: Request) -> IContentSink:
        """
        Access rules, then where uploads go; see L{ISite}.

        @raise Forbidden: writes are off, or not for this client and name.
        """
        if not self.drops:
            raise Forbidden(why="uploads are off")
        if self.rules is None:
            raise Forbidden(why="uploads need an access rule, and there is none")
        self.rules.check(request.peer[0], request.name, write=True)
        return self.drops[request.mode]
