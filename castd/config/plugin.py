"""
Finds the announcements of plugins.

An announcement is a few strings; the module that it names is imported only when a service file asks for the plugin.
An announcement stands in a file C{castd/plugins/anything.py} in a directory on the path, or is an entry point of an
installed distribution, in the group C{castd.transports} or C{castd.sources}.

The folders are read here and not by C{twisted.plugin.getPlugins}, which logs a module that fails to import and goes on,
hides one of two modules with the same name, and keeps a cache on disk (C{docs/decisions/finding-plugins.md}).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel
from zope.interface import Interface, implementer
from zope.interface.exceptions import BrokenImplementation, BrokenMethodImplementation, Invalid
from zope.interface.verify import verifyObject

from castd import plugins
from castd.errors import ConfigError
from castd.interfaces import (
    ICastTransport,
    IContentSource,
    IContentSourceMaker,
    IDialect,
    IPortService,
    ISite,
    ITransportMaker,
)
from castd.server.listener import Listener


@dataclass(frozen=True, slots=True)
class _Announcement:
    """
    Announces a plugin by three strings.

    @ivar name: the name of the plugin in a service file.
    @ivar module: dotted name of the module that has the options and the implementation.
    @ivar description: one line for C{castd plugins}.
    """

    name: str
    module: str
    description: str

    @property
    def options(self) -> type[BaseModel]:
        """
        The model of the options.

        @raise ConfigError: the module cannot be imported, or has no such model.
        """
        model = self._load("Options")
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ConfigError(f"{self.module}.Options is no pydantic model")
        return model

    def _load(self, name: str) -> Any:
        """Import the module.  -> its attribute of this name."""
        try:
            return getattr(import_module(self.module), name)
        except AttributeError:
            raise ConfigError(f"{self.module} has no {name}") from None
        except (Exception, SystemExit) as error:
            # The author's module may raise anything; the fault names the module, beside the other faults.
            raise ConfigError(f"{self.module} cannot be imported: {_showException(error)}") from error


@implementer(ITransportMaker)
class TransportMaker(_Announcement):
    """
    Announces a transport whose module promises two names: C{Options}, a model (mostly a
    L{ListenOptions<castd.options.ListenOptions>}), and C{Dialect(options)}, an L{IDialect<castd.interfaces.IDialect>}.
    """

    __slots__ = ()

    def makeTransport(self, name: str, options: Any, site: ISite) -> ICastTransport:
        """
        Make a listener that speaks this dialect.

        @raise ConfigError: it lacks what every dialect has.
        """
        dialect = self._load("Dialect")(options)
        requireProvided(dialect, IDialect)
        return Listener(site, name, options, dialect)


@implementer(ITransportMaker)
class ServiceMaker(_Announcement):
    """
    Announces a service whose module promises two names: C{Options}, a model, and C{makeService(name, options, site)},
    which gives an L{IPortService<castd.interfaces.IPortService>}.
    """

    __slots__ = ()

    def makeTransport(self, name: str, options: BaseModel, site: ISite) -> IPortService:
        """
        Make the service, by the module's C{makeService}.

        @raise ConfigError: it lacks what every service has, or is not marked as one: then it is taken for a transport.
        """
        service: IPortService = self._load("makeService")(name, options, site)
        requireProvided(service, IPortService)
        if not IPortService.providedBy(service):
            raise ConfigError(f"what {self.module}.makeService makes is not marked by @implementer(IPortService)")
        return service


@implementer(IContentSourceMaker)
class ContentSourceMaker(_Announcement):
    """
    Announces a content source whose module promises two names: C{Options}, a model, and C{makeSource(options, site)},
    which gives an L{IContentSource} or raises L{ConfigError}.
    """

    __slots__ = ()

    def makeSource(self, options: Any, site: ISite) -> IContentSource:
        """Open a source with these options, by the module's C{makeSource}."""
        source: IContentSource = self._load("makeSource")(options, site)
        return source


_Maker = TypeVar("_Maker", ITransportMaker, IContentSourceMaker)


@dataclass(slots=True)
class Collected:
    """
    The plugins that were found, and the faults of those that cannot be used.

    @ivar transports: makers of transports, by their names in a service file.
    @ivar sources: makers of content sources, by their names in a service file.
    @ivar origins: the place of each announcement, for messages; by interface and name.
    @ivar faults: one line for each announcement that cannot be used, with the reason.
    """

    transports: dict[str, ITransportMaker] = field(default_factory=dict)
    sources: dict[str, IContentSourceMaker] = field(default_factory=dict)
    origins: dict[tuple[type[Interface], str], str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, found: object, interface: type[Interface], origin: str) -> None:
        """
        Add an announcement; one that cannot be used, or the second one of a name, becomes a fault instead.

        @param interface: the interface that it was announced for: L{ITransportMaker} or L{IContentSourceMaker}.
        @param origin: the place of the announcement, for messages.
        """
        try:
            _verify(found, interface)
        except Invalid as error:
            self.faults.append(f"{origin}: {' '.join(str(error).split())}")
            return
        if interface is ITransportMaker and ITransportMaker.providedBy(found):
            self._addNamed(found, self.transports, interface, origin)
        elif IContentSourceMaker.providedBy(found):
            self._addNamed(found, self.sources, interface, origin)

    def _addNamed(self, maker: _Maker, named: dict[str, _Maker], interface: type[Interface], origin: str) -> None:
        first = named.setdefault(maker.name, maker)
        known = self.origins.setdefault((interface, maker.name), origin)
        # A wheel may announce the same plugin by a file and by an entry point.
        if first != maker:
            self.faults.append(
                f"{origin}: '{maker.name}' is announced by {known} already, which is the one that is used"
            )


#: The group of entry points for each interface of an announcement.
_GROUPS: dict[type[Interface], str] = {ITransportMaker: "castd.transports", IContentSourceMaker: "castd.sources"}


def collect(package: ModuleType = plugins) -> Collected:
    """
    Find every announcement; those of the package itself come first.

    @param package: the package whose folders are searched.
    """
    collected = Collected()
    for module in _imported(package, collected.faults):
        for name in dir(module):
            each = getattr(module, name)
            for interface in _GROUPS:
                # A maker class that the module imports implements the interface, but only its instances provide it.
                if interface.providedBy(each):
                    collected.add(each, interface, module.__file__ or module.__name__)
    for interface, group in _GROUPS.items():
        for point in entry_points(group=group):
            origin = f"{point.dist.name if point.dist else 'an entry point'} ({point.name} = {point.value})"
            try:
                collected.add(point.load(), interface, origin)
            except (Exception, SystemExit) as error:
                collected.faults.append(f"{origin}: cannot be imported: {_showException(error)}")
    return collected


def _imported(package: ModuleType, faults: list[str]) -> Iterator[ModuleType]:
    """Import each module in the folders of a package; one that fails or is hidden becomes a fault."""
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
            except (Exception, SystemExit) as error:
                faults.append(f"{file}: cannot be imported: {_showException(error)}")


def _verify(found: object, interface: type[Interface]) -> None:
    """
    Check an announcement against its interface.

    @raise Invalid: the announcement does not provide the interface.
    """
    # castd's own are verified by tests; reading their options would import modules that no service file asks for.
    if not (isinstance(found, _Announcement) and interface.providedBy(found)):
        verifyObject(interface, found)
    name = getattr(found, "name", None)
    if not (isinstance(name, str) and name):
        raise Invalid("a maker needs a name")


def requireProvided(made: object, interface: type[Interface]) -> None:
    """
    Check what a plugin has made: one that was written for another castd would fail with each datagram.

    Whether it is marked by C{@implementer} is not looked at, nor is what a property does that fails by now.

    @raise ConfigError: it lacks attributes of the interface, or its methods take other arguments.
    """
    try:
        verifyObject(interface, made, tentative=True)
    except Invalid as error:
        faults = list(_lacks(made, getattr(error, "exceptions", (error,))))
    except Exception:
        # A property has failed while it was compared.
        return
    else:
        return
    if faults:
        name = f"{type(made).__module__}.{type(made).__qualname__}"
        raise ConfigError(f"{name} is no {interface.__name__} of this castd: {'; '.join(faults)}")


def _lacks(made: object, errors: Iterable[Invalid]) -> Iterator[str]:
    """Return what an object lacks of an interface, from what C{verifyObject} says of it."""
    missing, methods = list[str](), list[str]()
    for each in errors:
        if isinstance(each, BrokenMethodImplementation):
            methods.append(f"{each.method.getName()}{each.method.getSignatureString()}: {each.mess}")
        elif isinstance(each, BrokenImplementation):
            missing.append(getattr(each.name, "__name__", each.name))
    # A property that raises AttributeError is there.
    if absent := [name for name in missing if not isinstance(getattr(type(made), name, None), property)]:
        yield f"it has no {', '.join(absent)}"
    yield from methods


def _showException(error: BaseException) -> str:
    """Write type, text and place of an exception on one line."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_filename if trace else ""
    place = f" ({code}, line {trace.tb_lineno})" if trace and not code.startswith(("<", sys.base_prefix)) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
