"""
Describes all transfers under way as plain data, for C{castd status} and for the gauges of the metrics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Protocol, TypedDict, TypeVar

from castd.interfaces import ICastTransport, ILiveTransfer, IPortService, ISite, LiveReceiver
from castd.net.faults import askPlugin
from castd.request import hostPort

T = TypeVar("T")

#: The kinds of L{ILiveTransfer}; any other object under way is L{OTHER}.
KINDS = ("unicast", "group", "upload")
OTHER = "other"


class ReceiverStatus(TypedDict):
    """A L{LiveReceiver}; C{seconds} count from its request."""

    peer: str
    name: str
    sent: int
    needed: int | None
    seconds: float


class TransferStatus(TypedDict):
    """An L{ILiveTransfer}; C{seconds} count from its begin.  A value that is not known is L{None}."""

    transport: str
    kind: str
    name: str | None
    group: str | None
    size: int | None
    octets: int | None
    blocks: int | None
    repeats: int | None
    seconds: float | None
    receivers: list[ReceiverStatus]


class AddressStatus(TypedDict):
    """An address that requests come to, and the transfers under way there."""

    address: str
    transports: list[str]
    retiring: bool
    casts: list[TransferStatus]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Address(Protocol):
    """The part of a L{ListeningAddress<castd.service.address.ListeningAddress>} that is read here."""

    retiring: bool

    @property
    def address(self) -> str: ...
    @property
    def entries(self) -> Sequence[_Named]: ...
    @property
    def transport(self) -> ICastTransport: ...


class DeafStatus(TypedDict):
    """A machine that is in no group, as it has received nothing of one; C{seconds} from now on."""

    host: str
    seconds: float


def asked(question: Callable[[], T], otherwise: T) -> T:
    """
    Return what a transport, a transfer or a service tells of itself.

    @param otherwise: is returned if it fails to, which is logged: a fault of one plugin hides nothing of the others.
    """
    return askPlugin(question, otherwise, "what is under way cannot be told")


def underWay(transport: ICastTransport) -> list[object]:
    """Return the casts and uploads of a transport."""
    return asked(lambda: list(transport.casts()), [])


def serviceCounts(service: IPortService) -> dict[str, int]:
    """Return the numbers of a service; one that is no number would fail for all of them where it is written."""

    def read() -> dict[str, int]:
        counts = dict(service.counts)
        for each in counts.items():
            name, number = map(type, each)
            if name is not str or number not in (int, float, bool):
                raise TypeError(f"counts: {each!r}")
        return counts

    return asked(read, {})


def deafStatus(site: ISite) -> list[DeafStatus]:
    """Describe the machines that are in no group now."""
    now = site.reactor.seconds()
    return [{"host": host, "seconds": round(left, 3)} for host, left in site.deafMachines.remembered(now)]


def addressStatuses(
    addresses: Iterable[_Address], seconds: Callable[[], float]
) -> tuple[list[AddressStatus], Iterator[None]]:
    """
    Begin to describe addresses that requests come to, with the transfers that are under way there now.

    @param seconds: the clock of the transfers.
    @return: the addresses, and the steps that describe their transfers, as there may be thousands: which transfers are
        described is of the instant of this call, and how far each of them is, of the instant of its step.
    """
    described, walks = list[AddressStatus](), list[Iterator[None]]()
    for each in addresses:
        casts = list[TransferStatus]()
        walks.append(_describe(underWay(each.transport), casts, seconds))
        described.append(
            {
                "address": each.address,
                "transports": [entry.name for entry in each.entries],
                "retiring": each.retiring,
                "casts": casts,
            }
        )
    return described, chain.from_iterable(walks)


def _describe(transfers: list[object], casts: list[TransferStatus], seconds: Callable[[], float]) -> Iterator[None]:
    """Describe transfers one after the other, and a group receiver by receiver."""
    for transfer in transfers:
        now = seconds()
        status = transferStatus(transfer, now, 0)
        casts.append(status)
        if ILiveTransfer.providedBy(transfer):
            for each in asked(partial(_receiversOf, transfer), list[LiveReceiver]()):
                asked(partial(_addReceiver, status, each, now), None)
                yield None
        yield None


def _receiversOf(transfer: ILiveTransfer) -> list[LiveReceiver]:
    return list(transfer.liveReceivers())


def _addReceiver(status: TransferStatus, receiver: LiveReceiver, now: float) -> None:
    status["receivers"].append(_receiverStatus(receiver, now))


def transferStatus(transfer: object, now: float, most: int | None = None) -> TransferStatus:
    """
    Describe a cast or an upload.

    @param transfer: mostly an L{ILiveTransfer}.  A plugin's transport may have another object under way, or one
        that fails to tell, of which nothing is known but that it exists.
    @param most: describe at most so many of its receivers; L{None}: all.
    """
    unknown: TransferStatus = {
        "transport": "?",
        "kind": OTHER,
        "name": None,
        "group": None,
        "size": None,
        "octets": None,
        "blocks": None,
        "repeats": None,
        "seconds": None,
        "receivers": [],
    }
    if not ILiveTransfer.providedBy(transfer):
        return unknown
    return asked(lambda: _liveStatus(transfer, now, most), unknown)


def _liveStatus(transfer: ILiveTransfer, now: float, most: int | None) -> TransferStatus:
    blocks, repeats, octets = transfer.progress()
    return {
        "transport": transfer.name,
        "kind": transfer.kind,
        "name": transfer.fileName,
        "group": None if transfer.group is None else hostPort(transfer.group),
        "size": transfer.size,
        "octets": octets,
        "blocks": blocks,
        "repeats": repeats,
        "seconds": round(now - transfer.opened, 3),
        "receivers": [_receiverStatus(each, now) for each in transfer.liveReceivers()[:most]] if most != 0 else [],
    }


def _receiverStatus(receiver: LiveReceiver, now: float) -> ReceiverStatus:
    return {
        "peer": hostPort(receiver.peer),
        "name": receiver.name,
        "sent": receiver.sent,
        "needed": receiver.needed,
        "seconds": round(now - receiver.since, 3),
    }


def resources(site: ISite, passingCalls: int = 0) -> dict[str, int]:
    """
    Count the resources that the server holds; the numbers return to the same values when the same transfers are under
    way, so a leak shows.

    @param passingCalls: delayed calls of the reactor that come and go with the log; they are left out.
    @return: C{ports}: ports that wait for the next transfer, with two descriptors each; C{alarms}: timers of casts,
        uploads and request ports; C{calls}: delayed calls of the reactor; C{casts} and C{receivers}: those under way;
        C{looking}: requests whose file is being looked for.
    """
    admission = site.admission
    site.timers.tidy()
    return {
        "ports": site.ports.idle,
        "alarms": len(site.timers),
        "calls": len(site.reactor.getDelayedCalls()) - passingCalls,
        "casts": admission.casts,
        "looking": admission.looking,
        "receivers": admission.receivers.total(),
    }


def countDescriptors(held: dict[str, int]) -> Iterator[None]:
    """
    Count the open descriptors as C{descriptors} among what the server holds, step by step: the system tells of some
    hundred in a millisecond.  They are 0 if C{/dev/fd} does not exist, as in another root (C{twistd --chroot}).
    """
    held["descriptors"] = 0
    with suppress(OSError), os.scandir("/dev/fd") as found:
        for _ in found:
            held["descriptors"] += 1
            yield None
