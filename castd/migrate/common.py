"""
Carry over what several servers say alike: addresses, ranges of ports, options that are not granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from posixpath import normpath

from castd import units
from castd.migrate.draft import ANY, Draft, Options, Place, Value
from castd.options import address

#: What every server has, and castd does by itself or is told elsewhere: by the name of the thing.
ELSEWHERE = {
    "user": "castd serve --user, or User= of the unit, says who castd is",
    "log": "castd logs each transfer by itself; logging: in the service file says where",
    "pidfile": "castd stays in the foreground, and a service manager knows it",
    "daemon": "castd stays in the foreground, and a service manager starts it",
    "inetd": "castd runs all the time",
}


def numericAddress(text: str) -> str | None:
    """Return an address as a service file has it; L{None}: it is no numeric address."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return address(bare) or ANY
    except ValueError:
        return None


def addressAndPort(text: str) -> tuple[str, str]:
    """Split C{10.0.0.5:69}, C{:69}, C{[::]:69} or C{::1} into an address and a port, each C{""} if absent."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def isPort(text: str) -> bool:
    """Return whether a text is the number of a port."""
    return wholeNumber(text, 1, 0xFFFF) is not None


def portRange(first: str, last: str) -> str | None:
    """Return a range of ports as a service file has it; L{None}: it is none."""
    if not isPort(first) or not isPort(last) or int(first) > int(last):
        return None
    return f"{int(first)}-{int(last)}"


def wholeNumber(text: str, least: int, most: int) -> int | None:
    """Return a number within these bounds; L{None}: it is none."""
    found = units.wholeNumber(text, most)
    return found if found is not None and found >= least else None


def milliseconds(value: int) -> str:
    """Return a duration as a service file has it."""
    return f"{value // 1000} s" if value % 1000 == 0 else f"{value} ms"


def notGranted(names: Iterable[str]) -> Value:
    """Return the value of C{without} that grants these options to nobody."""
    return [{"clients": ANY, "options": list[Value](names)}]


def prefixOf(path: str) -> str:
    """Return an absolute path as the beginning of a name: without slashes at its ends."""
    return normpath(path).strip("/")


def startsNothing(file: str, program: str, variables: str) -> str:
    """Return the fault of a file that says nothing of how a server is started."""
    cure = "name the file that starts it, or give its command line as ps shows it: --command LINE"
    return f"{file}: no line starts {program}, and none sets {variables}; {cure}"


def listenEverywhere(draft: Draft, addresses: Iterable[str], options: Options, *places: Place) -> None:
    """Add a C{tftp} at each of these addresses."""
    for each in addresses:
        draft.listen("tftp", {"interface": each, **options}, *places)
