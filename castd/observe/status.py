"""
What is under way, as plain data: for C{castd status}.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from castd.request import hostPort


def about(addresses: Iterable[Any], now: float) -> list[dict[str, Any]]:
    """
    @param addresses: each a L{ListeningAddress<castd.service.address.ListeningAddress>}.
    @return: for each what it is, and the casts under way there; times are seconds until now.
    """
    return [
        {
            "address": each.address,
            "transports": [entry.name for entry in each.entries],
            "retiring": each.retiring,
            "casts": [_cast(cast, now) for cast in each.transport.casts()],
        }
        for each in addresses
    ]


def held(site: Any) -> dict[str, int]:
    """
    -> what the server keeps, and what must be the same whenever as much is under way: C{calls} are those that the
    reactor has been asked for, C{ports} wait for the next transfer with two descriptors each.
    """
    admission = site.admission
    return {
        "descriptors": _descriptors(),
        "ports": getattr(site.ports, "kept", 0),
        "alarms": len(site.timers),
        "calls": len(site.reactor.getDelayedCalls()),
        "casts": admission.casts,
        "looking": admission.looking,
        "receivers": admission.receivers.total(),
    }


def _descriptors() -> int:
    """Open ones; 0 where nobody says: in another root (twistd --chroot)."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def _cast(cast: Any, now: float) -> dict[str, Any]:
    """Of an outsider's transport as much as it has in common with ours."""
    wire, request = getattr(cast, "wire", None), getattr(cast, "request", None)
    content, group = getattr(cast, "content", None), getattr(wire, "group", None)
    blocks, repeats, octets = _sofar(cast)
    return {
        "transport": getattr(cast, "name", "?"),
        "kind": "upload" if request is not None else "unicast" if group is None else "group",
        "name": getattr(content, "name", None) or getattr(request, "name", None),
        "group": group and hostPort(group),
        "size": getattr(content, "size", None),
        "octets": octets,
        "blocks": blocks,
        "repeats": repeats,
        "seconds": _ago(now, getattr(cast, "opened", None)),
        "receivers": list(_receivers(cast, blocks, getattr(wire, "count", None), now)),
    }


def _sofar(cast: Any) -> tuple[int | None, int | None, int | None]:
    """-> blocks, repeats and octets."""
    counted = getattr(cast, "progress", None)
    if counted is None:
        return getattr(cast, "blocks", None), getattr(cast, "repeats", None), getattr(cast, "octets", None)
    return counted()  # type: ignore[no-any-return]


def _receivers(cast: Any, blocks: int | None, needed: int | None, now: float) -> Iterable[dict[str, Any]]:
    for peer, receiver in getattr(cast, "receivers", {}).items():
        yield {
            "peer": hostPort(peer),
            "name": receiver.request.name,
            "sent": (blocks or 0) - receiver.before[0],
            "needed": needed,
            "seconds": _ago(now, receiver.since),
        }
    request = getattr(cast, "request", None)
    if request is not None:
        told = {"sent": blocks, "needed": None, "seconds": _ago(now, cast.opened)}
        yield {"peer": hostPort(request.peer), "name": request.name, **told}


def _ago(now: float, instant: float | None) -> float | None:
    return None if instant is None else round(now - instant, 3)
