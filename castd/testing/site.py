"""
Provides a site for tests, in memory and on a virtual network: all that transports share.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from zope.interface import implementer

from castd.errors import Forbidden, NotFound
from castd.files import names
from castd.files.chains import Missed, SourceChain
from castd.files.netascii import NetasciiConverter, NetasciiUpload
from castd.files.spelling import withoutCase
from castd.files.threads import asDeferred
from castd.interfaces import IContent, IContentSink, IContentSource, ISite, IUpload, Near
from castd.machines.known import KnownMachine
from castd.options import Limits
from castd.request import Peer, Request
from castd.server.machines import Machines
from castd.server.site import Site
from castd.testing.content import BytesContent, MemorySink
from castd.testing.hosts import Host
from castd.testing.network import Network


class NoJitterRandom(random.Random):
    """A random generator for timers without jitter: C{random} is always 0, all other methods are random."""

    getrandbits = random.Random.getrandbits

    def random(self) -> float:
        """Return 0."""
        return 0.0


@implementer(IContentSink)
class NetasciiSink:
    """A sink for uploads in netascii: passes the converted text to another sink."""

    def __init__(self, sink: IContentSink) -> None:
        self._sink = sink

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """As L{IContentSink.begin}."""
        return asDeferred(self._sink.begin(name, peer, size)).addCallback(NetasciiUpload)


@implementer(ISite)
class MemorySite(Site):
    """
    A site in memory, made by L{memorySite}.

    @ivar source: the source of the files; L{None}: C{files}.
    @ivar files: the files by name, without a leading slash; the next request sees a change of this mapping.
    @ivar access: called with each request before the lookup; raises a L{Refused} for a request that is not allowed.
    @ivar uploads: the sink of uploads; L{None}: writes are refused.
    @ivar neighbours: the MAC of each address, as the kernel's table has them; it is read once a second at the most.
    @ivar lookups: every request that was looked up.
    @ivar contents: every content that was opened; at the end of a test each must have been closed once.
    """

    def __init__(
        self,
        network: Network,
        ports: Host,
        files: MutableMapping[str, bytes | IContent],
        uploads: IContentSink | None,
        access: Callable[[Request], object] | None,
        limits: Limits,
        generator: random.Random,
        source: IContentSource | None = None,
    ) -> None:
        super().__init__(network, generator, ports, limits)
        self.files, self.uploads, self.access, self.source = files, uploads, access, source
        self.neighbours: dict[str, str] = {}
        self.machines = Machines(network, lambda: maybeDeferred, lambda: self.neighbours, network.seconds)
        if source is not None:
            self.content = SourceChain([source], (), self.machines)
        self._converter = NetasciiConverter(maybeDeferred)
        self.lookups: list[Request] = []
        self.contents: list[IContent] = []
        self._versions: dict[str, BytesContent] = {}

    def lookup(self, request: Request) -> IContent | Deferred[IContent]:
        """As L{ISite.lookup}."""
        self.lookups.append(request)
        return super().lookup(request)

    def find(
        self, request: Request, missed: Missed | None = None, machine: KnownMachine | None = None
    ) -> IContent | Deferred[IContent]:
        """As L{Site.find}, in C{files} or in the source."""
        found = self._find(request, missed, machine)
        return found.addCallback(self._opened) if isinstance(found, Deferred) else self._opened(found)

    def _opened(self, content: IContent) -> IContent:
        self.contents.append(content)
        return content

    def _find(
        self, request: Request, missed: Missed | None, machine: KnownMachine | None
    ) -> IContent | Deferred[IContent]:
        if self.access is not None:
            self.access(request)
        if self.source is not None:
            # Looked at for each request: a test may exchange it.
            chain = SourceChain([self.source], (), self.machines)
            return chain.lookup(request.name, request.peer, request.local.host, machine, missed, request.trace)
        name = names.text(names.parts(request.name))
        found = self.files.get(name)
        if found is None:
            raise NotFound
        return self._openBytes(name, found) if isinstance(found, bytes) else found

    def findNear(self, request: Request) -> Deferred[Near | None] | None:
        """As L{ISite.findNear}: among C{files}, or in the source if it can."""
        if self.source is not None:
            return self.machineOf(request).addCallback(partial(SourceChain([self.source]).findNear, request.name))
        return succeed(_nearest(request.name, self.files))

    def _openBytes(self, name: str, data: bytes) -> BytesContent:
        """Open a file; its version, made from all octets, is computed only if the file has been exchanged."""
        last = self._versions.get(name)
        same = last is not None and last.data is data
        made = BytesContent(name, data, last.version if last is not None and same else None)
        self._versions[name] = made
        return made

    def sink(self, request: Request) -> IContentSink:
        """As L{ISite.sink}."""
        if self.access is not None:
            self.access(request)
        if self.uploads is None:
            raise Forbidden("Writes are not allowed")
        return NetasciiSink(self.uploads) if request.mode == "netascii" else self.uploads


def _nearest(name: str, files: Mapping[str, object]) -> Near | None:
    """Return the file whose name differs from this one by case, or by its leading directories."""
    asked = name.strip("/")
    for found in files:
        if withoutCase(found) == withoutCase(asked) != "":
            return Near("case", found)
    ends = (found for found in files if f"/{found}".endswith(f"/{asked}") or f"/{asked}".endswith(f"/{found}"))
    meant = next(ends, None) if asked else None
    return None if meant is None else Near("prefix", meant)


def memorySite(
    network: Network,
    files: Mapping[str, bytes | IContent] | None = None,
    uploads: IContentSink | bool = False,
    access: Callable[[Request], object] | None = None,
    *,
    host: str = "10.0.0.1",
    limits: Limits | None = None,
    jitter: bool = False,
    seed: int = 0,
    source: IContentSource | None = None,
) -> MemorySite:
    """
    Make a site on this network.

    @param files: the files to serve, by name: octets, or objects that provide L{IContent}.
    @param uploads: the sink of uploads; L{True}: uploads go into the files, new names only; L{False}: writes are
        refused.
    @param access: raises a L{Refused} for requests that are not allowed.
    @param host: the server's address.
    @param source: the source of the files instead of C{files}, such as a Directory.
    @param jitter: L{True}: timers have random jitter, as on a real server; L{False}: they expire to the millisecond.
    """
    served: dict[str, bytes | IContent] = dict(files or {})
    sink = (MemorySink(served) if uploads else None) if isinstance(uploads, bool) else uploads
    generator = random.Random(seed) if jitter else NoJitterRandom(seed)
    return MemorySite(network, network.host(host), served, sink, access, limits or Limits(), generator, source)
