"""
Finds what a service file may say and hardly means, for C{castd check}: transports and rules that have no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

from castd.config.config import Config, byAddress, listening
from castd.config.profiles import Surroundings, profileWarnings
from castd.files.mapping import NameMap
from castd.files.upload_options import UploadDirectoryOptions
from castd.options import AnyNetwork, ServiceOptions


def warningsOf(config: Config) -> Iterator[str]:
    """Return the warnings of a service file, each as C{file:line: path: what}."""
    yield from _neverAsked(config)
    yield from _missingFallbacks(config)
    yield from _missingElsewhere(config)
    yield from _neverUsed(config)
    yield from _pathsAsNames(config)
    yield from _uploadsDenied(config)
    yield from _neverReached(config)
    surroundings = _surroundings(config)
    yield from _rulesForMachines(config, surroundings)
    yield from profileWarnings(config.profiles, config.tree, surroundings)
    for entry, options in listening(config):
        for text in options.warnings():
            yield f"{config.tree.where(entry.route)}: {text}"
    for transports in byAddress(config).values():
        for place, (entry, options) in enumerate(transports):
            others = [(other.name, each) for other, each in transports[place + 1 :]]
            yield from map(entry.describe, options.beside(others))


def _surroundings(config: Config) -> Surroundings:
    """Return what makes profiles and rules for some machines useless."""
    reading = [(entry.name, options) for entry, options in listening(config) if options.profiled]
    services = [entry.options for entry in config.transports if isinstance(entry.options, ServiceOptions)]
    heard = any(options.identifiesMachines for options in services)
    return Surroundings(reading, heard or config.machines.neighbours or bool(config.machines.leases), heard)


def _neverAsked(config: Config) -> Iterator[str]:
    """Warn of a transport behind one at the same address that takes every request."""
    for transports in byAddress(config).values():
        for (before, options), (entry, _) in pairwise(transports):
            if options.takesAll:
                text = f"is never asked: '{before.name}', before it at the same address, takes every request"
                cure = "give one another address" if entry.kind == before.kind else f"put '{before.name}' last"
                yield f"{config.tree.where(entry.route)}: {text}; {cure}"
                break


def _missingFallbacks(config: Config) -> Iterator[str]:
    """Warn of a transport without its C{fallback} after it at the same address, for the requests that it declines."""
    for transports in byAddress(config).values():
        for place, (entry, options) in enumerate(transports):
            if any(before.takesAll for _, before in transports[:place]):
                break
            wanted = options.fallback
            if wanted and wanted not in (other.kind for other, _ in transports[place + 1 :]):
                text = f"no {wanted} follows at its address, so clients it declines get no answer"
                yield f"{config.tree.where(entry.route)}: {text}"


def _missingElsewhere(config: Config) -> Iterator[str]:
    """Warn of a transport whose C{elsewhere} is missing: its clients turn there when they give it up."""
    there = {(entry.kind, options.port) for entry, options in listening(config)}
    for entry, options in listening(config):
        wanted = options.elsewhere
        if wanted and wanted not in there:
            text = f"no {wanted[0]} at port {wanted[1]}: clients that give up here ask there"
            yield f"{config.tree.where(entry.route)}: {text}"


def _neverUsed(config: Config) -> Iterator[str]:
    """Warn of an access rule that never decides, since rules for all names before it match all that it could match."""
    decided: dict[Literal["read", "write"], _Decided] = {"read": _Decided(), "write": _Decided()}
    for number, rule in enumerate(config.access or ()):
        uses = [decided[use] for use in decided if rule.use in (None, use)]
        networks = rule.allow or rule.deny or ()
        lines = [use.line(network) for use in uses for network in networks]
        if lines and None not in lines:
            where = config.tree.where(("access", number))
            yield f"{where}: never decides: the rule in line {lines[0]} matches all that it could match"
        elif rule.names is None and not rule.machineKeys:
            for use in uses:
                use.add(networks, config.tree.line(("access", number)))


class _Decided:
    """The networks for which rules decide, whatever the name is, with the line of each rule."""

    def __init__(self) -> None:
        # The length of a prefix, with the version of IP -> the network -> the line.
        self._lines: dict[tuple[int, int], dict[int, int]] = {}

    def add(self, networks: Iterable[AnyNetwork], line: int) -> None:
        for network in networks:
            known = self._lines.setdefault((network.version, network.prefixlen), {})
            known.setdefault(int(network.network_address), line)

    def line(self, network: AnyNetwork) -> int | None:
        """Return the line of a rule that decides for all of this network; L{None}: there is none."""
        first = int(network.network_address)
        for (version, length), known in self._lines.items():
            if version == network.version and length <= network.prefixlen:
                host = network.max_prefixlen - length
                if (line := known.get(first >> host << host)) is not None:
                    return line
        return None


def _pathsAsNames(config: Config) -> Iterator[str]:
    """Warn of a pattern that no name matches: it is a path of a directory, or has a part that names do not have."""
    folders = [path for entry in config.content if isinstance(path := getattr(entry.options, "base", None), Path)]
    for number, rule in enumerate(config.access or ()):
        for pattern in rule.names or ():
            if {".", ".."} & set(pattern.split("/")):
                where = config.tree.where(("access", number, "names"))
                yield f"{where}: {pattern} matches no name: names are compared without . and .."
            elif any(f"{pattern}/".startswith(f"{folder}/") for folder in folders if folder != Path("/")):
                where = config.tree.where(("access", number, "names"))
                yield f"{where}: {pattern} is a path on this machine, and names are as clients send them"


def _uploadsDenied(config: Config) -> Iterator[str]:
    """Warn of places for uploads that no rule lets anybody use."""
    if not config.uploads:
        return
    where = config.tree.where(("uploads",))
    if config.access is None:
        yield f"{where}: without access rules nobody may upload"
    elif not any(rule.allow is not None and rule.use in (None, "write") for rule in config.access):
        yield f"{where}: no access rule lets anybody upload: {{allow: …, for: write}} would"


def _neverReached(config: Config) -> Iterator[str]:
    """
    Warn of a directory for uploads behind those that take what it could take, of all its clients.

    An upload goes on to the next directory only from one that is for other clients or names, lacks a directory in its
    path and does not make it, or replaces files only and has none of this name.
    """
    places = [(each.route, each.options) for each in config.uploads if isinstance(each.options, UploadDirectoryOptions)]
    for number, (route, options) in enumerate(places):
        taken, isWhole = _Decided(), True
        for before, other in places[:number]:
            if _takesNamesOf(other, options):
                taken.add(other.networks, config.tree.line(before))
                isWhole &= other.makeDirectories
        lines = [taken.line(network) for network in options.networks]
        if lines and None not in lines:
            first = f"the directory in line {lines[0]}"
            text = f"is never reached: {first} takes all that it could take"
            if not isWhole:
                text = f"is reached only for folders that {first} lacks: all else of its clients goes there"
            yield f"{config.tree.where(route)}: {text}; put it first, or let it be for other names"


def _takesNamesOf(before: UploadDirectoryOptions, after: UploadDirectoryOptions) -> bool:
    """
    Return whether a directory for uploads takes the names that another one would take, but for those in folders that
    only the disk could tell of.
    """
    if before.policy == "existing" or before.rewrite or after.rewrite or NameMap(before).words:
        return False
    if (before.under, before.strip) == (after.under, after.strip):
        return before.makeDirectories or not after.makeDirectories
    # A name has folders where one is for names below those of the other.
    isBelow = before.strip == after.strip and f"{after.under}/".startswith(f"{before.under}/")
    return before.makeDirectories and (isBelow or not before.under)


def _rulesForMachines(config: Config, surroundings: Surroundings) -> Iterator[str]:
    """Warn of what a forger can do to rules that name machines, and of such rules that match none."""
    named = [(number, rule) for number, rule in enumerate(config.access or ()) if rule.machineKeys]
    for number, rule in named:
        if (why := surroundings.whyUnknown(rule.machineKeys)) is not None:
            yield f"{config.tree.where(('access', number))}: never matches: {why}"
    lines = [config.tree.line(("access", number)) for number, rule in named if rule.allow is not None]
    if lines:
        text = "anybody on the network of a machine can claim its MAC, architecture and UUID, and then gets what"
        more = f" and {len(lines) - 1} more" if lines[1:] else ""
        yield f"{config.tree.where(('machines', 'trusted'))}: {text} the access rule in line {lines[0]}{more} gives it"
    denied = next((number for number, rule in named if rule.deny is not None), None)
    if denied is not None:
        text = "whoever claims to be another machine, or is not known, is not denied: allow those who may"
        yield f"{config.tree.where(('access', denied))}: {text}, and deny the rest by networks"
