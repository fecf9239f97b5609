"""
Announcements, and where they are found.

An announcement is a few strings, and what it names is imported only when a service file asks for it.  It stands in a
file C{castd/plugins/anything.py} in a directory on the path, or is an entry point of an installed distribution, in the
group C{castd.transports} or C{castd.sources}.

The folders are read here and not by C{twisted.plugin.getPlugins}: that logs a module which fails to import and goes on,
hides one of two modules with the same name, and keeps a cache on disk (C{docs/decisions/finding-plugins.md}).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from zope.interface import Interface, implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from castd import plugins
from castd.errors import ConfigError
from castd.interfaces import ICastTransport, IContentSource, IContentSourceMaker, ISite, ITransportMaker
from castd.server.listener import Listener


@dataclass(frozen=True, slots=True)
class _Announced:
    """
    The strings of an announcement.

    @ivar name: what the service file says.
    @ivar module: dotted name of the module that has the rest.
    @ivar description: one line for C{castd plugins}.
    """

    name: str
    module: str
    description: str

    @property
    def options(self) -> type[BaseModel]:
        """@raise ConfigError: the module cannot be imported, or does not keep its promises."""
        model = self._promised("Options")
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ConfigError(f"{self.module}.Options is no pydantic model")
        return model

    def _promised(self, name: str) -> Any:
        try:
            return getattr(import_module(self.module), name)
        except AttributeError:
            raise ConfigError(f"{self.module} has no {name}") from None
        except Exception as error:
            # Whatever the author's module raises: the operator is told whose it is, beside the other complaints.
            raise ConfigError(f"{self.module} cannot be imported: {_told(error)}") from error


@implementer(ITransportMaker)
class TransportMaker(_Announced):
    """
    Announces a transport whose module promises two names: C{Options}, a model (mostly a
    L{ListenOptions<castd.options.ListenOptions>}), and C{Dialect(options)}, an L{IDialect<castd.interfaces.IDialect>}.
    """

    __slots__ = ()

    def makeTransport(self, name: str, options: Any, site: ISite) -> ICastTransport:
        """A listener with this dialect."""
        return Listener(site, name, options, self._promised("Dialect")(options))


@implementer(IContentSourceMaker)
class ContentSourceMaker(_Announced):
    """
    Announces a content source whose module promises two names: C{Options}, a model, and C{makeSource(options, site)},
    which gives an L{IContentSource} or raises L{ConfigError}.
    """

    __slots__ = ()

    def makeSource(self, options: Any, site: ISite) -> IContentSource:
        """What the module makes of these options."""
        source: IContentSource = self._promised("makeSource")(options, site)
        return source


@dataclass(slots=True)
class Collected:
    """
    What can be named in a service file, by name.

    @ivar origins: where each was announced, for complaints.
    @ivar faults: announcements that cannot be used, and why.
    """

    transports: dict[str, ITransportMaker] = field(default_factory=dict)
    sources: dict[str, IContentSourceMaker] = field(default_factory=dict)
    origins: dict[tuple[type[Interface], str], str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, found: Any, seam: type[Interface], origin: str) -> None:
        """Take an announcement, unless it cannot be used: then it is a fault, as is the second one of a name."""
        try:
            _verify(found, seam)
        except Invalid as error:
            self.faults.append(f"{origin}: {' '.join(str(error).split())}")
            return
        named: dict[str, Any] = self.transports if seam is ITransportMaker else self.sources
        first = named.setdefault(found.name, found)
        known = self.origins.setdefault((seam, found.name), origin)
        # A wheel may announce the same thing both ways.
        if first != found:
            self.faults.append(
                f"{origin}: '{found.name}' is announced by {known} already, which is the one that is used"
            )


#: The seams of announcements, and the groups of entry points that hold them.
_SEAMS: dict[type[Interface], str] = {ITransportMaker: "castd.transports", IContentSourceMaker: "castd.sources"}


def collect(package: ModuleType = plugins) -> Collected:
    """
    Find every announcement; those of the package itself first.

    @param package: whose folders are looked into.
    """
    collected = Collected()
    for module in _modules(package, collected.faults):
        for name in dir(module):
            each = getattr(module, name)
            for seam in _SEAMS:
                # A class that was imported to be instantiated implements a seam, but does not provide it.
                if seam.providedBy(each):
                    collected.add(each, seam, module.__file__ or module.__name__)
    for seam, group in _SEAMS.items():
        for point in entry_points(group=group):
            origin = f"{point.dist.name if point.dist else 'an entry point'} ({point.name} = {point.value})"
            try:
                collected.add(point.load(), seam, origin)
            except Exception as error:
                collected.faults.append(f"{origin}: cannot be imported: {_told(error)}")
    return collected


def _modules(package: ModuleType, faults: list[str]) -> Iterator[ModuleType]:
    """Import what lies in the folders of a package; what fails or is hidden becomes a fault."""
    seen: dict[str, str] = {}
    for folder in package.__path__:
        for found in sorted(iter_modules([folder]), key=lambda each: each.name):
            file = f"{folder}/{found.name}.py"
            if found.name in seen:
                faults.append(f"{file}: is hidden by {seen[found.name]}: give it another name")
                continue
            seen[found.name] = file
            try:
                yield import_module(f"{package.__name__}.{found.name}")
            except Exception as error:
                faults.append(f"{file}: cannot be imported: {_told(error)}")


def _verify(found: Any, seam: type[Interface]) -> None:
    """@raise Invalid: it does not keep to its interface."""
    # Ours do, as tests show; to look at their options would import what nobody has asked for.
    if not isinstance(found, _Announced):
        verifyObject(seam, found)
    if not (isinstance(found.name, str) and found.name):
        raise Invalid("a maker needs a name")


def _told(error: BaseException) -> str:
    """Kind, text and place of an exception, on one line."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_filename if trace else ""
    place = f" ({code}, line {trace.tb_lineno})" if trace and not code.startswith(("<", sys.base_prefix)) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
