"""
Shows what a running server is doing: C{castd status}, once or again and again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NotRequired, TypedDict

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from castd.cli.console import addRow, makeConsole, makeTable
from castd.cli.control import ask, control
from castd.cli.history import line, localTime
from castd.cli.seconds import SecondsRange
from castd.files.names import printable
from castd.observe.format import showOctets, showSpan

if TYPE_CHECKING:
    # The forms of what a server says: it has the modules that make it.
    from castd.observe.eventstore import Found
    from castd.observe.report import FailureReport
    from castd.observe.status import AddressStatus, DeafStatus, TransferStatus

#: How many of the latest events a watched status shows, and of the latest failures another one.
LATEST = 10


class HistoryStatus(TypedDict):
    """The part of the status that is about the history; C{lost}: how many events could not be kept."""

    path: str | None
    lost: int


class ServerStatus(TypedDict):
    """The part of the answer to C{status} that the table shows; C{--json} shows all of the answer."""

    version: str
    state: str
    unready: str | None
    seconds: float
    file: str
    inForceSeconds: NotRequired[float]
    addresses: list[AddressStatus]
    deaf: NotRequired[list[DeafStatus]]
    failures: NotRequired[list[FailureReport] | None]
    log: NotRequired[dict[str, int]]
    history: NotRequired[HistoryStatus]


@click.command()
@control
@click.option(
    "--watch",
    "every",
    is_flag=False,
    flag_value=1.0,
    type=SecondsRange(0.1, 3600),
    metavar="[SECONDS]",
    help="Again and again, with rates and with what happened last, until Ctrl-C.",
)
@click.option("--json", "plain", is_flag=True, help="As JSON; with --watch an object each time.")
def status(path: str, every: float | None, plain: bool) -> None:
    """Show what a running server is doing.  Exit status 1: it does not answer requests."""
    found: ServerStatus = ask(path, "status")
    if every is not None:
        with suppress(KeyboardInterrupt):
            _watch(path, every, plain)
    elif plain:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(head(found))
        makeConsole().print(table(found))
        if deaf := found.get("deaf"):
            click.echo(deafLine(deaf))
        if missing := missingLine(found):
            click.echo(missing)
        for each in (found.get("failures") or ())[:LATEST]:
            click.echo(f"failed: {failureLine(each)}")
    raise SystemExit(found["unready"] is not None)


def head(found: ServerStatus) -> str:
    """
    Return the line above the table: the version, the state, for how long, and the service file; for how long that is in
    force, if it is not that of the start.
    """
    why = f", {found['unready']}" if found["unready"] and found["unready"] != found["state"] else ""
    inForce = found.get("inForceSeconds", found["seconds"])
    since = f" (in force for {showSpan(inForce)})" if inForce < found["seconds"] else ""
    state = f"castd {found['version']}, {found['state']}{why}, {showSpan(found['seconds'])}"
    return printable(f"{state}, {found['file']}{since}")


def table(found: ServerStatus, rates: Mapping[Hashable, float] | None = None) -> Table:
    """
    Return a table with a line for each receiver, and one for each cast or address without receivers.

    @param rates: the rate of each transfer, as L{Rates} finds it; L{None}: they are not shown.
    """
    columns = ("address", "transport", "kind", "name", "receiver", "blocks", "since")
    made = makeTable(*columns, *(() if rates is None else ("rate",)), right=("blocks", "since", "rate"))
    for address in found["addresses"]:
        shown = address["address"] + (" (closing)" if address["retiring"] else "")
        if not address["casts"]:
            addRow(made, shown, ", ".join(address["transports"]))
        for cast in address["casts"]:
            kind = f"{cast['kind']} {cast['group']}" if cast["group"] else cast["kind"]
            row = (shown, cast["transport"], kind, cast["name"])
            rate = (rates or {}).get(_keyOf(address, cast))
            last = () if rates is None else ("" if rate is None else f"{showOctets(rate)}/s",)
            for each in cast["receivers"]:
                blocks = f"{each['sent']}/{each['needed']}" if each["needed"] is not None else str(each["sent"])
                addRow(made, *row, each["peer"], blocks, showSpan(each["seconds"]), *last)
            if not cast["receivers"]:
                addRow(made, *row)
    return made


def deafLine(machines: Iterable[DeafStatus]) -> str:
    """Return a line that names the machines that are in no group, and for how long."""
    return "in no group, as they hear none: " + ", ".join(
        f"{each['host']} (for {showSpan(each['seconds'])})" for each in machines
    )


def missingLine(found: ServerStatus) -> str:
    """Return a line that says what is in no log, or not in the history, since the start; C{""}: nothing is missing."""
    log, history = found.get("log", {}), found.get("history")
    counts = {
        "left out of the log, as there were too many in a minute": log.get("omitted", 0),
        "lost on their way to the log": log.get("lost", 0),
        "not in the history": 0 if history is None else history["lost"],
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"missing: {'; '.join(told)}" if told else ""


def failureLine(failure: FailureReport) -> str:
    """Return a line with the local time, what happened and how often, and why, as far as that can be told."""
    when = localTime(failure["time"])
    times = f" ({failure['times']} times)" if failure["times"] > 1 else ""
    why = f"; {failure['why']}" if failure["why"] else ""
    return printable(f"{when}  {failure['message']}{times}{why}")


class Rates:
    """Finds the rate of each transfer, from one look at the server to the next."""

    def __init__(self) -> None:
        self._before: dict[Hashable, int] = {}
        self._at: float | None = None

    def measure(self, found: ServerStatus, now: float) -> dict[Hashable, float]:
        """
        Return the rate of each transfer since the look before, octets a second; nothing at the first look.

        @param now: the instant of this look.
        """
        addresses = found["addresses"]
        casts = {_keyOf(each, cast): cast for each in addresses for cast in each["casts"]}
        before, self._before = self._before, {key: cast["octets"] or 0 for key, cast in casts.items()}
        span, self._at = now - (now if self._at is None else self._at), now
        if span <= 0:
            return {}
        # One that began since then has sent all of its octets since then: its machine may have asked once more.
        known = {key: before.get(key, 0) for key, cast in casts.items() if (cast["seconds"] or 0.0) >= span}
        return {key: max(0, sent - known.get(key, 0)) / span for key, sent in self._before.items()}


def _keyOf(address: AddressStatus, cast: TransferStatus) -> Hashable:
    """Return what tells a transfer from all others: a group, or the one receiver."""
    peer = cast["receivers"][0]["peer"] if cast["receivers"] and cast["group"] is None else None
    return address["address"], cast["transport"], cast["group"], peer


def _watch(path: str, every: float, plain: bool) -> None:
    """Show the status until the user ends it; a server that does not answer now may answer again, after a restart."""
    if plain:
        while True:
            try:
                click.echo(json.dumps(ask(path, "status")))
            except click.ClickException as error:
                click.echo(error.message, err=True)
            time.sleep(every)
    console = makeConsole()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        for view in _views(path):
            if console.is_terminal:
                live.update(view, refresh=True)
            else:
                console.print(view)
            time.sleep(every)


def _views(path: str) -> Iterator[Group]:
    rates = Rates()
    while True:
        try:
            found: ServerStatus = ask(path, "status")
            latest: list[Found] = ask(path, "history", limit=LATEST)["entries"]
        except click.ClickException as error:
            yield Group(Text(error.message))
            continue
        shown = table(found, rates.measure(found, time.monotonic()))
        deaf = [Text(deafLine(machines))] if (machines := found.get("deaf")) else []
        yield Group(Text(head(found)), shown, *deaf, Text(), *(Text(line(each)) for each in reversed(latest)))
