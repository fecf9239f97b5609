"""
Find the profiles that are for a request, and apply them.

What all machines of one type have in common, the shape of their requests (mode, options, read or write), is looked up
in a cache.  What is left of that is compared with the name, by another cache, and then with the address.  Most requests
end at the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial

from castd.files.names import Patterns, plain
from castd.machines.known import KnownMachine
from castd.networks import Networks
from castd.packets.options import KNOWN, number
from castd.packets.tftp import Options
from castd.profiles.options import CONTROL, DHCP_END, MatchOptions, OptionShape, ProfileOptions, ProfilesOptions
from castd.profiles.stock import BY_NAME, chosen
from castd.request import Peer, Quirks, Request

#: How many shapes of requests, and combinations of profiles, are cached.
_REMEMBERED = 1024
#: The most profiles that are counted by their names, over all reloads; the others are counted together, as L{OTHER}.
MOST_COUNTED = 256
OTHER = "other"


def fitOptions(shapes: tuple[OptionShape, ...], options: Options) -> bool:
    """Return whether the options of a request are these, in this order, and no others."""
    place = 0
    for shape in shapes:
        if place < len(options) and shape.name == options[place][0] and _fitsValue(shape, options[place][1]):
            place += 1
        elif not shape.optional:
            return False
    return place == len(options)


def _fitsValue(shape: OptionShape, value: str) -> bool:
    if shape.numbers is None:
        return shape.value is None or shape.value == value
    given = number(value)
    return given is not None and shape.numbers[0] <= given <= shape.numbers[1]


class _Matcher:
    """
    Compares requests with one L{MatchOptions}.

    @ivar needs: the options without which no request fits, in lower case.
    @ivar anyName: the name of the file does not count.
    @ivar anyPeer: neither the address of a request counts nor its transport.
    """

    def __init__(self, options: MatchOptions) -> None:
        self._options = options
        self._shapes = options.shapes
        required = [shape.name for shape in self._shapes or () if not shape.optional]
        self.needs = frozenset(each.lower() for each in (*required, *(options.asks or ())))
        self._names = None if options.names is None else Patterns(options.names)
        self._networks = None if options.clients is None else Networks(options.clients)
        self.byMachine = options.mac is not None or options.arch is not None
        self.anyName = self._names is None
        self.anyPeer = options.clients is None and options.ports is None and options.transports is None

    def fitsShape(self, mode: str, options: Options, write: bool) -> bool:
        """Return whether all but the name fits that does not depend on who asks, where the options it C{needs} are."""
        wanted = self._options
        return (
            (wanted.use is None or (wanted.use == "write") is write)
            and (wanted.mode is None or wanted.mode == mode)
            and (self._shapes is None or fitOptions(self._shapes, options))
        )

    def fitsName(self, name: str) -> bool:
        """Return whether a name fits, as L{plain<castd.files.names.plain>} returns it."""
        return self._names is None or self._names.match(name) is not None

    def fitsPeer(self, peer: Peer, transport: str) -> bool:
        """Return whether the address and the port of a request fit, and the transport that has read it."""
        wanted = self._options
        return (
            (self._networks is None or peer[0] in self._networks)
            and (wanted.ports is None or peer[1] in wanted.ports)
            and (wanted.transports is None or transport in wanted.transports)
        )

    def fitsMachine(self, machine: KnownMachine) -> bool:
        """Return whether what is known of a machine fits; what is not known does not."""
        return machine.fits(self._options.mac, self._options.arch)


class Profile:
    """
    One profile, ready for use.

    @ivar options: what it does, and for whom.
    @ivar place: C{file:line} of it in the service file; C{""}: it is one of castd's own.
    @ivar byMachine: it depends on what has to be found out of the machine.
    @ivar needs: the options without which it is for no request, in lower case.
    @ivar anyName: it is for files of all names.
    @ivar anyPeer: it is for all clients, and for all transports.
    @ivar mends: it may change the name of the file.
    """

    def __init__(self, options: ProfileOptions, place: str = "") -> None:
        self.options = options
        self.place = place
        like = options.match.like
        base = () if like is None or like not in BY_NAME else (BY_NAME[like].options.match,)
        self._matchers = tuple(map(_Matcher, (*base, options.match)))
        self._rules = tuple(each.rule for each in options.rewrite)
        self.byMachine = any(each.byMachine for each in self._matchers)
        self.needs = frozenset[str]().union(*(each.needs for each in self._matchers))
        self.anyName = all(each.anyName for each in self._matchers)
        self.anyPeer = all(each.anyPeer for each in self._matchers)
        self.mends = options.junk or bool(self._rules)

    def fitsShape(self, mode: str, options: Options, write: bool) -> bool:
        """Return whether it is for such requests, which have the options it C{needs}, as far as no name decides."""
        return all(each.fitsShape(mode, options, write) for each in self._matchers)

    def fitsName(self, name: str) -> bool:
        """Return whether it is for files of this name, as L{plain<castd.files.names.plain>} returns it."""
        return all(each.fitsName(name) for each in self._matchers)

    def fitsPeer(self, peer: Peer, transport: str) -> bool:
        """Return whether it is for requests of this client, as far as that does not depend on its machine."""
        return all(each.fitsPeer(peer, transport) for each in self._matchers)

    def fitsMachine(self, machine: KnownMachine) -> bool:
        """Return whether it is for this machine."""
        return all(each.fitsMachine(machine) for each in self._matchers)

    def mend(self, name: str) -> str:
        """Return a name after what the profile does to it; it never leaves nothing of the name."""
        if self.options.junk:
            name = name.partition(DHCP_END)[0].rstrip(CONTROL) or name
        if not self._rules:
            return name
        before = found = plain(name)
        for rule in self._rules:
            changed, matched = rule.apply(found, {})
            found = changed or found
            if matched and rule.end:
                break
        return name if found == before else found

    def changes(self) -> Iterator[str]:
        """Return what it does, in few words each, for C{castd explain}; the name is told by L{mend}."""
        options = self.options
        if options.blksize is not None:
            yield f"blocks of at most {options.blksize} octets"
        if options.windowsize is not None:
            yield f"windows of at most {options.windowsize} blocks"
        if options.timeout is not None:
            yield f"no timeout above {options.timeout:g} s"
        if options.without:
            yield f"{', '.join(options.without)} not granted"
        if not options.oack:
            yield "no option granted"
        if options.rollover is not None:
            yield f"block {options.rollover} follows block 65535"


class Profiles:
    """
    All profiles, in the order in which they are asked.

    All that match a request are applied: the least of several bounds counts, an option that one of them does not grant
    is not granted, names are mended by one after the other, and of two that name the block after 65535 the first
    counts.

    @ivar byMachine: some of them depend on what has to be found out of the machine.
    """

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self.profiles = tuple(profiles)
        self.byMachine = any(each.byMachine for each in self.profiles)
        # Not methods: by the cycle of references they would outlive a reload, with their caches.
        self._shaped = lru_cache(_REMEMBERED)(partial(_shaped, self.profiles))
        self._named = lru_cache(_REMEMBERED)(_named)
        self._together = lru_cache(_REMEMBERED)(_together)

    def matching(self, request: Request, transport: str) -> tuple[Profile, ...]:
        """
        Find the profiles for a request, in their order; some of them may depend on the machine.

        @param transport: the name of the transport that has read it.
        """
        found, byName = self._shaped(request.sentMode, request.options, request.write)
        if byName:
            found = self._named(found, request.name)
        if not found:
            return found
        return tuple([each for each in found if each.anyPeer or each.fitsPeer(request.peer, transport)])

    def apply(
        self, request: Request, found: Sequence[Profile], machine: KnownMachine | None = None
    ) -> tuple[Request, tuple[Profile, ...]]:
        """
        Apply profiles to a request.

        @param found: of L{matching}.
        @param machine: who asks; L{None}: none of the profiles depends on it.
        @return: the request, with its name mended and with what dialects do for it; and the profiles that count.
        """
        fits = found if machine is None else [each for each in found if each.fitsMachine(machine)]
        applied, quirks, mending = self._together(tuple(fits))
        if not applied:
            return request, ()
        name = request.name
        for each in mending:
            name = each.mend(name)
        return request.profiled(name, quirks), applied


def _shaped(
    profiles: tuple[Profile, ...], mode: str, options: Options, write: bool
) -> tuple[tuple[Profile, ...], bool]:
    """
    Return the profiles for requests of one shape, whatever name they ask for: mode, options, whether they write; and
    whether the name decides, too.
    """
    asks = {option.lower() for option, _ in options}
    found = tuple(each for each in profiles if each.needs <= asks and each.fitsShape(mode, options, write))
    return found, not all(each.anyName for each in found)


def _named(profiles: tuple[Profile, ...], name: str) -> tuple[Profile, ...]:
    """Return those of these profiles that are for files of this name."""
    text = plain(name)
    return tuple(each for each in profiles if each.fitsName(text))


def _together(profiles: tuple[Profile, ...]) -> tuple[tuple[Profile, ...], Quirks, tuple[Profile, ...]]:
    """Return those of these profiles that count, what they do together, and those of them that may change the name."""
    last = next((place for place, each in enumerate(profiles, 1) if each.options.end), None)
    applied = profiles[:last]
    return applied, _merged(applied), tuple(each for each in applied if each.mends)


def _merged(profiles: tuple[Profile, ...]) -> Quirks:
    """Return what several profiles do together."""
    each = [profile.options for profile in profiles]
    refuse = {name.lower() for options in each for name in options.without}
    return Quirks(
        profiles=tuple(options.name for options in each),
        blksize=min((options.blksize for options in each if options.blksize is not None), default=None),
        windowsize=min((options.windowsize for options in each if options.windowsize is not None), default=None),
        timeout=min((options.timeout for options in each if options.timeout is not None), default=None),
        refuse=frozenset(refuse | (KNOWN if any(not options.oack for options in each) else set())),
        oack=all(options.oack for options in each),
        rollover=next((options.rollover for options in each if options.rollover is not None), 0),
    )


class ProfileHits(Counter[str]):
    """How many requests each profile was applied to, by its name; it outlives reloads."""

    def add(self, applied: Iterable[Profile]) -> None:
        """Count one request that these profiles were applied to."""
        for each in applied:
            name = each.options.name
            self[name if name in self or len(self) < MOST_COUNTED else OTHER] += 1


def makeProfiles(options: ProfilesOptions, places: Sequence[str] = ()) -> Profiles | None:
    """
    Make the profiles of a service file.

    @param places: C{file:line} of each of its own; C{()}: not known.
    @return: L{None}: there are none, and requests need not be compared with any.
    """
    own = [Profile(each, places[number] if places else "") for number, each in enumerate(options.own)]
    stock = [Profile(each) for each in chosen(options.without)] if options.stock else []
    return Profiles((*own, *stock)) if own or stock else None
