"""
Finds what is wrong with the profiles of a service file, as far as that shows only in the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from castd.config.messages import suggestion
from castd.config.yaml import Route, Tree
from castd.networks import isWithin
from castd.options import ListenOptions
from castd.profiles.options import MatchOptions, OptionShape, ProfileOptions, ProfilesOptions
from castd.profiles.stock import BY_NAME


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    Holds what the rest of a service file says that makes profiles, and access rules for some machines, useless.

    @ivar reading: name and options of each transport that compares requests with profiles.
    @ivar knowsMac: the MAC of a machine can be known.
    @ivar knowsArch: so can its architecture and its UUID.
    """

    reading: Sequence[tuple[str, ListenOptions]]
    knowsMac: bool
    knowsArch: bool

    def whyUnknown(self, keys: Iterable[str]) -> str | None:
        """Return why one of these (C{mac}, C{arch}, C{uuid}) is known of no machine; L{None}: all can be known."""
        for key in keys:
            if key == "mac" and not self.knowsMac:
                return "no MAC is known: neighbours are off, there are no leases, and no proxydhcp listens"
            if key != "mac" and not self.knowsArch:
                word = "architecture" if key == "arch" else "UUID"
                return f"no {word} is known, since no proxydhcp listens"
        return None


def profileFaults(options: ProfilesOptions, tree: Tree, named: Sequence[str]) -> Iterator[tuple[Route, str]]:
    """
    Return the faults of the profiles, each with the route of the value.

    @param named: the names of the transports.
    """
    for place, name in enumerate(options.without):
        if name not in BY_NAME:
            yield ("profiles", "except", place), f"castd has no profile {name}" + suggestion(name, BY_NAME)
    used = {} if not options.stock else dict.fromkeys(BY_NAME.keys() - set(options.without), "castd's own list")
    for number, profile in enumerate(options.own):
        route: Route = ("profiles", "own", number)
        if profile.name in used:
            cure = "give it another name" + (", or put that one into except" if profile.name in BY_NAME else "")
            yield (*route, "name"), f"there is another {profile.name}, in {used[profile.name]}: {cure}"
        used.setdefault(profile.name, f"line {tree.line((*route, 'name'))}")
        like = profile.match.like
        if like is not None and like not in BY_NAME:
            yield (*route, "match", "like"), f"castd has no profile {like}" + suggestion(like, BY_NAME)
        for place, name in enumerate(profile.match.transports or ()):
            if name not in named:
                yield (*route, "match", "transports", place), f"there is no transport {name}" + suggestion(name, named)


def profileWarnings(options: ProfilesOptions, tree: Tree, around: Surroundings) -> Iterator[str]:
    """Return a warning for each profile that can never match, as C{file:line: path: what}."""
    for number, profile in enumerate(options.own):
        why = _whyNever(profile.match, around) or _whyHidden(options.own, number, tree)
        if why is not None:
            yield f"{tree.where(('profiles', 'own', number))}: never matches: {why}"


def _whyNever(match: MatchOptions, around: Surroundings) -> str | None:
    """Return why no request can fit; L{None}: one can."""
    mine = [options for name, options in around.reading if match.transports is None or name in match.transports]
    if not mine:
        return "none of the transports that it is for reads requests of TFTP"
    shapes = match.shapes
    if shapes is not None and match.asks is not None:
        absent = [each for each in match.asks if each.lower() not in {shape.name.lower() for shape in shapes}]
        if absent:
            return f"{absent[0]} is not among its options"
    required = [shape.name.lower() for shape in shapes or () if not shape.optional]
    if len(set(required)) < len(required):
        return "an option is named twice, and of two the second is not read"
    onlyIpv6 = match.clients is not None and all(each.version == 6 for each in match.clients)
    if onlyIpv6 and not any(":" in options.interface for options in mine):
        return "its clients have IPv6 addresses, and no transport that it is for listens at one"
    return around.whyUnknown([key for key in ("arch", "mac") if getattr(match, key) is not None])


def _whyHidden(own: Sequence[ProfileOptions], number: int, tree: Tree) -> str | None:
    """Return which profile before this one ends the list for all requests that it could match."""
    for place, before in enumerate(own[:number]):
        if before.end and _isWithin(own[number].match, before.match):
            line = tree.line(("profiles", "own", place))
            return f"{before.name}, in line {line}, matches all that it could match, and ends the list"
    return None


def _isWithin(inner: MatchOptions, outer: MatchOptions) -> bool:
    """Return whether it is easily seen that all requests that fit the inner one fit the outer one."""
    for key in type(outer).model_fields:
        wide: object = getattr(outer, key)
        narrow: object = getattr(inner, key)
        if wide is not None and wide != narrow and not _narrower(key, inner, outer):
            return False
    return True


def _narrower(key: str, inner: MatchOptions, outer: MatchOptions) -> bool:
    """Return whether one condition of the inner one is stricter than that of the outer one, which has it."""
    if key == "clients" and inner.clients is not None and outer.clients is not None:
        return all(isWithin(each, outer.clients) for each in inner.clients)
    if key == "ports" and inner.ports is not None and outer.ports is not None:
        return inner.ports[0] in outer.ports and inner.ports[-1] in outer.ports
    if key == "mac" and inner.mac is not None and outer.mac is not None:
        return all(each.startswith(outer.mac) for each in inner.mac)
    if key == "asks" and outer.asks is not None:
        wanted = {each.lower() for each in outer.asks}
        return wanted <= {each.lower() for each in inner.asks or ()} | _required(inner)
    if key in ("names", "transports", "arch"):
        wide, narrow = getattr(outer, key), getattr(inner, key)
        return narrow is not None and set(narrow) <= set(wide)
    return False


def _required(match: MatchOptions) -> set[str]:
    """Return the options, in lower case, that every request has whose options are these."""
    shapes: Sequence[OptionShape] = match.shapes or ()
    return {shape.name.lower() for shape in shapes if not shape.optional}
