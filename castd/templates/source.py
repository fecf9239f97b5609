"""
Make files from templates, each for the machine that asks: C{template} in a service file.

A template is rendered once for each machine and version: until the template, a file that it includes, or the inventory
changes.  That is done by another process (L{castd.templates.renderers}); files are looked at in a thread.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from pydantic import Field, field_validator
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ConfigError, ContentChanged, NotFound, Refused
from castd.files import names
from castd.files.directory import patience
from castd.files.threads import DiskThreads, RunInThread, callWithin
from castd.interfaces import IContent, INetworkSource, IScopedSource, ISite
from castd.machines.known import KnownMachine
from castd.machines.words import fill, parse, shapeOf, wordsOf
from castd.networks import Networks
from castd.options import Clients, Duration, FilePath, Settings, Size, clients
from castd.request import Peer
from castd.templates.messages import FileVersion, Job, Rendered, versionNow
from castd.templates.renderers import Render, Renderers, spawn

_log = Logger(namespace="castd")

#: When a disk has not answered no template is looked for within so many seconds: a service file may name hundreds.
LOOK_AGAIN = 10.0

#: Results that are kept, and their octets; beyond, those that nobody has asked for the longest.
MOST_KEPT, MOST_OCTETS = 4096, 32 << 20
#: Seconds until what has failed is tried again, as long as no file changes.
FAILED_LASTS = 10.0

#: What a result depends on: the name, and the machine.
_Key: TypeAlias = tuple[str, KnownMachine]


class Options(Settings):
    """A file that is made from a template, for each machine that asks."""

    file: FilePath = Field(description="the template (Jinja); others beside it may be included")
    names: tuple[str, ...] = Field(
        min_length=1,
        description='names that it is served by, with patterns and words: boot.ipxe, "pc/{mac}.cfg", "*.ks"',
    )
    inventory: FilePath | None = Field(None, description="values of machines and groups, in YAML; null: none")
    knownOnly: bool = Field(False, description="only for machines in the inventory; others look further down")
    networks: Clients = Field(clients("any"), description="clients that see it; the others look further down")
    timeout: Duration = Field(2.0, gt=0, le=60, description="the most time that rendering takes")
    size: Size = Field(1 << 20, ge=1, le=16 << 20, description="octets of the largest result")
    memory: Size = Field(256 << 20, ge=64 << 20, description="octets that the process which renders may use")

    @field_validator("names")
    @classmethod
    def _patterns(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for each in given:
            parse(each)
        names.Patterns(given)
        return given


def makeSource(options: Options, site: ISite) -> TemplateSource:
    """
    Make a source of content.

    @raise ConfigError: the template or the inventory is not there, or Jinja is not installed.
    """
    if find_spec("jinja2") is None:
        raise ConfigError("it needs the library Jinja2: pip install 'castd[template]'")
    for key, path in (("file", options.file), ("inventory", options.inventory)):
        if path is not None and (fault := _unusable(path, site)) is not None:
            raise ConfigError(f"{key}: {path}: {fault}")
    return TemplateSource(options, _renderers(site).render, site)


def _unusable(path: Path, site: ISite) -> str | None:
    """
    Return the reason why there is no file of this name, or why that cannot be found out; L{None}: there is one, or the
    disk does not answer, as it may when a machine asks.
    """
    now = site.reactor.seconds()
    if now < _silentUntil.get(site, now):
        return None
    try:
        isFile = stat.S_ISREG(callWithin(patience(site), partial(os.stat, path)).st_mode)
    except (TimeoutError, BlockingIOError):
        _silentUntil[site] = now + LOOK_AGAIN
        _log.warn("{path} does not answer yet", event="slow-disk", path=str(path))
        return None
    except FileNotFoundError:
        isFile = False
    except OSError as error:
        return error.strerror
    return None if isFile else "there is no such file"


#: The processes of each site: also after a reload the same ones render.
_of: WeakKeyDictionary[ISite, Renderers] = WeakKeyDictionary()
#: Until when no template is looked for, by the clock of the site: a disk has not answered.
_silentUntil: WeakKeyDictionary[ISite, float] = WeakKeyDictionary()


def _renderers(site: ISite) -> Renderers:
    return _of.setdefault(site, Renderers(site.reactor, spawn))


class _Kept(NamedTuple):
    """
    What a template has given for one machine.

    @ivar until: the instant at which a fault is tried again; L{None}: it is a result.
    """

    rendered: Rendered
    octets: bytes
    files: Sequence[FileVersion]
    until: float | None


@implementer(IContent)
class RenderedContent:
    """Reads the result of a template."""

    __slots__ = ("_data", "name", "size", "version")

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.size, self._data = name, len(data), data
        self.version = "rendered", blake2b(data, digest_size=16).digest()

    def read(self, offset: int, length: int) -> memoryview:
        """As L{IContent.read}."""
        return memoryview(self._data)[offset : offset + length]

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}."""
        for buffer in buffers:
            if offset + len(buffer) > self.size:
                raise ContentChanged(why="more was asked for than the file has")
            buffer[:] = self._data[offset : offset + len(buffer)]
            offset += len(buffer)

    def close(self) -> None:
        """As L{IContent.close}."""


@implementer(INetworkSource, IScopedSource)
class TemplateSource:
    """Serves what one template gives for each machine."""

    byMachine = True

    def __init__(self, options: Options, render: Render, site: ISite, thread: RunInThread | None = None) -> None:
        """
        @param render: renders templates.
        @param thread: runs what waits for the disk; L{None}: a thread of its own.
        """
        self.options = options
        self.networks = options.networks
        self._networks = Networks(options.networks)
        self._names = [parse(each) for each in options.names]
        # There may be hundreds of templates, each with names for each machine: most are told by these patterns alone.
        self._shapes = names.Patterns(map(shapeOf, self._names))
        self._worded = any(map(wordsOf, self._names))
        self._render, self._site = render, site
        self._thread = thread or DiskThreads(1)
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._octets = 0
        self._asked: dict[_Key, list[Deferred[IContent]]] = {}

    def mayHave(self, name: str, peer: Peer) -> bool:
        """As L{IScopedSource.mayHave}: by its networks, and by its names with any values of their words."""
        return peer[0] in self._networks and names.plain(name) in self._shapes

    def lookup(self, name: str, peer: Peer) -> Deferred[IContent]:
        """Make the file of this name for a client whose machine is not known; as L{lookupFor}."""
        return self.lookupFor(name, KnownMachine(peer))

    def lookupFor(self, name: str, machine: KnownMachine) -> Deferred[IContent]:
        """
        Make the file of this name for a machine.

        @return: fails with NotFound: the machine has no such file; Refused: the template or the inventory is wrong.
        @raise NotFound: the name is not one of this template's, or it is not for this client.
        """
        if machine.peer[0] not in self._networks:
            raise NotFound(why="not for this client")
        plain = self._plainName(name, machine)
        # The port and the moment are no reason to render anew.
        key = plain, replace(machine, peer=(machine.ip or "", 0), at=0.0)
        asked: Deferred[IContent] = Deferred()
        waiting = self._asked.setdefault(key, [])
        waiting.append(asked)
        if len(waiting) == 1:
            found = Deferred.fromCoroutine(self._find(key))
            found.addBoth(self._found, key)
        return asked

    def _plainName(self, name: str, machine: KnownMachine) -> str:
        """@raise NotFound: it is none of this template's names."""
        try:
            plain = names.text(names.parts(name))
        except Refused:
            # A directory behind may have rules that mend it.
            raise NotFound(why="no name of a template") from None
        if plain not in self._shapes:
            raise NotFound()
        if self._worded:
            patterns = [fill(pieces, machine.values) for pieces in self._names]
            if plain not in _patterns(tuple(each for each in patterns if each is not None)):
                raise NotFound()
        return plain

    async def _find(self, key: _Key) -> bytes:
        """@raise Refused: as L{lookupFor}."""
        kept = self._kept.get(key)
        files = None if kept is None else [path for path, *_ in kept.files]
        versions = await self._thread(partial(_versionsOf, files or self._files))
        if kept is None or kept.files != versions or (kept.until is not None and self._now() >= kept.until):
            kept = await self._make(key, versions)
        # Also if it was kept before: it is the last one that was asked for now, and may have been dropped meanwhile.
        self._keep(key, kept)
        return self._result(kept)

    @property
    def _files(self) -> list[str]:
        return [str(each) for each in (self.options.file, self.options.inventory) if each is not None]

    def _now(self) -> float:
        return self._site.reactor.seconds()

    async def _make(self, key: _Key, versions: Sequence[FileVersion]) -> _Kept:
        """Render the template."""
        name, machine = key
        job = Job(
            template=str(self.options.file),
            inventory=None if self.options.inventory is None else str(self.options.inventory),
            known=self.options.knownOnly,
            most=self.options.size,
            values={
                "name": name,
                "ip": machine.ip,
                "mac": machine.mac,
                "uuid": machine.uuid,
                "arch": machine.arch,
                "server": machine.server,
            },
        )
        rendered = await self._render(self, job, self.options.timeout, self.options.memory)
        if rendered["fault"] is not None:
            # It may repeat what a client has sent.
            fault = names.printable(rendered["fault"])
            _log.error("{fault}", event="template-fault", fault=fault, name=name, mac=machine.mac)
        # JSON knows no tuples.
        files = [(path, inode, size, text, file) for path, inode, size, text, file in rendered["files"]]
        octets = (rendered["text"] or "").encode("utf-8", "surrogateescape")
        until = None if rendered["fault"] is None else self._now() + FAILED_LASTS
        return _Kept(rendered, octets, files or list(versions), until)

    def _keep(self, key: _Key, kept: _Kept) -> None:
        """Keep a result, as the last one that was asked for; those that nobody has asked for the longest make room."""
        former = self._kept.pop(key, None)
        self._octets += len(kept.octets) - (0 if former is None else len(former.octets))
        self._kept[key] = kept
        while len(self._kept) > MOST_KEPT or self._octets > MOST_OCTETS:
            self._octets -= len(self._kept.popitem(last=False)[1].octets)

    def _result(self, kept: _Kept) -> bytes:
        if kept.rendered["fault"] is not None:
            raise Refused("The file could not be made", names.printable(kept.rendered["fault"]))
        if kept.rendered["text"] is None:
            raise NotFound(why="not in the inventory")
        return kept.octets

    def _found(self, result: bytes | Failure, key: _Key) -> None:
        for each in self._asked.pop(key):
            if not each.called:
                each.callback(result if isinstance(result, Failure) else RenderedContent(key[0], result))


def _versionsOf(paths: Sequence[str]) -> list[FileVersion]:
    """Return the versions of some files.  In a thread."""
    return [versionNow(path) for path in paths]


@lru_cache(1024)
def _patterns(patterns: tuple[str, ...]) -> names.Patterns:
    return names.Patterns(patterns)
