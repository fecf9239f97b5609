"""
Plugins that raise: any object of a seam, with one of its methods broken.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from zope.interface import Interface, directlyProvides, providedBy
from zope.interface.interface import Method

from castd.interfaces import ICast, IContent, IContentSink, IDialect, IGroupWire, ITransferHalf, IUpload, IWire

#: What a method may return that has methods of its own, all of which pass through the same breaker.
SEAMS: tuple[Any, ...] = (IDialect, IGroupWire, IWire, ICast, IContent, IContentSink, IUpload, ITransferHalf)


class Broken(Exception):
    """A bug of a plugin's."""


class Breaker:
    """
    Which method is broken.

    @ivar calls: how often each was called, by interface and name: C{IWire.header}.
    @ivar hits: how often it raised.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self._name = ""
        self._left: float = 0

    def breaks(self, name: str, times: float = float("inf")) -> None:
        """From now on this method raises, so many times."""
        self._name, self._left, self.hits = name, times, 0

    def mend(self) -> None:
        """Nothing raises any more."""
        self._left = 0

    def cast(self, made: Any) -> Any:
        """The wire's cast; as it is, unless it shall be broken: a stranger's cast takes no steps ahead."""
        return Plugin(self, made) if self._name.startswith("ICast.") else made

    def called(self, name: str) -> None:
        """
        From a plugin: the method is called.

        @raise Broken: it is the one.
        """
        self.calls[name] += 1
        if name == self._name and self._left > 0:
            self._left -= 1
            self.hits += 1
            raise Broken(f"a bug in {name}")


class Plugin:
    """An object of a seam, through a breaker; so is what its methods return."""

    def __init__(self, breaker: Breaker, real: Any) -> None:
        self.__dict__.update(_breaker=breaker, _real=real)
        directlyProvides(self, providedBy(real))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "cast":
            return lambda *args: self._breaker.cast(found(*args))
        full = next((said(seam, name) for seam in SEAMS if seam.providedBy(self._real) and name in methods(seam)), None)
        if full is None:
            return found

        def call(*args: Any, **more: Any) -> Any:
            self._breaker.called(full)
            return through(self._breaker, found(*args, **more))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__provides__":
            object.__setattr__(self, name, value)
        else:
            setattr(self._real, name, value)


def through(breaker: Breaker, value: Any) -> Any:
    """-> the object of a seam behind its breaker; all else as it is."""
    return Plugin(breaker, value) if any(seam.providedBy(value) for seam in SEAMS) else value


def said(seam: Any, name: str) -> str:
    """-> C{IWire.header}, also for the wire of a group."""
    return f"{'IWire' if seam is IGroupWire else seam.getName()}.{name}"


def methods(seam: type[Interface]) -> list[str]:
    """-> the names of its methods."""
    return [name for name in seam.names(all=True) if isinstance(seam[name], Method)]  # type: ignore[misc]


def broken() -> list[str]:
    """-> every method of every seam: C{IWire.header}."""
    return sorted({*(said(seam, name) for seam in SEAMS for name in methods(seam)), "IContentSource.lookup"})
