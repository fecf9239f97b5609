"""
Shows a report to people: as a page that needs no script and nothing from elsewhere, and as JSON.

Names of files and of machines are a stranger's text.  They are made printable, and C{twisted.web.template} escapes them
as it does all text of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.resources import files
from ipaddress import ip_address
from itertools import chain, groupby
from typing import TypeAlias
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.template import Element, Flattenable, Tag, XMLString, flatten, renderer

from castd.cast.blockmap import CellState, cells
from castd.files.names import printable
from castd.observe.encoding import encodeJson
from castd.observe.format import showOctets, showSpan
from castd.observe.report import FRESH, GroupReport, MemberReport, RatedTransfer, Reporter, ServerReport, Shared
from castd.observe.web import Answer, TextResource
from castd.slices import Slices

# Read now: after twistd has changed the root of the file system they cannot be found.
_STATIC = {each.name: each.read_bytes() for each in (files("castd.observe") / "static").iterdir()}
_PAGE = XMLString(_STATIC["page.html"])
_MEMBER = XMLString(_STATIC["member.html"])

#: Sent with every answer: nothing is loaded from elsewhere, nobody frames the page, nothing keeps it.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
#: How each state is drawn, in a row of 8 in height: where its bar begins, and its height.  They differ in more than
#: their color.
BARS = {CellState.HAS: (0, 8), CellState.SENT: (2, 6), CellState.PARTLY: (4, 4), CellState.LACKS: (7, 1)}
#: How each state is called.
WORDS = {CellState.HAS: "has", CellState.SENT: "may have", CellState.PARTLY: "in part", CellState.LACKS: "lacks"}
#: The most parts of a map that are told in words.
MOST_PARTS = 6
#: The longest time after which a browser without scripts may be told to look again.  Seconds.
LONGEST_EVERY = 3600

#: Says when to pause; see L{Slices.pauses<castd.slices.Slices.pauses>}.
Pause: TypeAlias = Callable[[], "Deferred[None] | None"]
#: Refuses a request for its C{Host}: -> status and text of the answer; L{None}: it may be answered.
Refusal: TypeAlias = Callable[[str], "tuple[int, str] | None"]


def pageResources(reactor: IReactorTime, reporter: Reporter, refusal: Refusal) -> Mapping[bytes, IResource]:
    """Return the page, its JSON, and what belongs to it, by their paths."""
    page = Shared(reactor, lambda: reporter.report().addCallback(_render, reporter.slices.pauses()), FRESH)
    html, script, style = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"
    return {
        b"": PageResource(page.get, html, refusal),
        b"status.json": PageResource(
            lambda: reporter.report().addCallback(_encode, reporter.slices), "application/json", refusal
        ),
        b"page.css": PageResource(lambda: succeed(_STATIC["page.css"]), style, refusal),
        b"page.js": PageResource(lambda: succeed(_STATIC["page.js"]), script, refusal),
        b"icon.svg": PageResource(lambda: succeed(_STATIC["icon.svg"]), "image/svg+xml", refusal),
    }


def isLoopback(host: str) -> bool:
    """Return whether a name or an address is that of this machine for itself."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def hostOf(header: str) -> str:
    """Return the name or the address in a C{Host} header; C{""}: there is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class PageResource(TextResource):
    """One part of the page: answers C{GET} and C{HEAD} of those who may see it."""

    def __init__(self, make: Callable[[], Deferred[bytes]], kind: str, refusal: Refusal) -> None:
        super().__init__(lambda: make().addCallback(lambda body: (200, body)), kind)
        self._refusal = refusal

    def render(self, request: Request) -> int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return self._refuse(request, (405, b"this page is only looked at\n"))
        refused = self._refusal(hostOf((request.getHeader(b"host") or b"").decode("latin-1")))
        if refused is not None:
            return self._refuse(request, (refused[0], f"{refused[1]}\n".encode()))
        if (every := _everyOf(request)) is not None:
            request.setHeader("refresh", str(every))
        return self.render_GET(request)

    def _refuse(self, request: Request, answer: Answer) -> int:
        gone = request.notifyFinish()
        gone.addErrback(lambda _: None)
        self._send(answer, request, gone)
        return NOT_DONE_YET


def _everyOf(request: Request) -> int | None:
    """Return the seconds after which C{?every=5} has a browser look again; L{None}: it does not."""
    (text,) = request.args.get(b"every", [b""])[:1]
    every = int(text) if text.isdigit() and len(text) <= 4 else 0
    return every if 1 <= every <= LONGEST_EVERY else None


def _encode(report: ServerReport, slices: Slices) -> Deferred[bytes]:
    """Return a report as JSON."""
    return encodeJson(report, slices).addCallback(lambda text: text.encode() + b"\n")


def _render(report: ServerReport, pause: Pause) -> Deferred[bytes]:
    """Return the page that shows a report."""
    pieces = [b"<!DOCTYPE html>\n"]
    return flatten(None, PageElement(report, pause), pieces.append).addCallback(lambda _: b"".join(pieces))


class PageElement(Element):
    """The page; its template is C{static/page.html}."""

    loader = _PAGE

    def __init__(self, report: ServerReport, pause: Pause) -> None:
        """@param pause: says when the flattening of rows is to pause."""
        super().__init__()
        self._report = report
        self._pause = pause

    @renderer
    def title(self, request: IRequest | None, tag: Tag) -> Flattenable:
        server = self._report["server"]
        return tag(f"castd: {server['state']}, {_number(self._report['count'], 'transfer')}")

    @renderer
    def server(self, request: IRequest | None, tag: Tag) -> Flattenable:
        report, server = self._report, self._report["server"]
        why = server["unready"]
        state = server["state"] if why in (None, server["state"]) else f"{server['state']}; {why}"
        history = server["history"] or "in memory"
        return _fill(
            tag,
            state=state,
            underWay=f"{_number(report['count'], 'transfer')}, {_number(report['receivers'], 'machine')}, "
            f"{showOctets(report['rate'])}/s",
            since=_showTime(server["since"]),
            versions=f"castd {server['version']}, Python {server['python']}, Twisted {server['twisted']}"
            f" ({server['reactor']}), process {server['pid']}",
            file=server["file"],
            inForce=_showTime(server["inForce"]),
            sha256=server["sha256"],
            history=history + (f"; {_number(server['lost'], 'event')} could not be kept" if server["lost"] else ""),
            time=_showTime(report["time"]),
        )

    # Transfers.

    @renderer
    def noTransfers(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return "" if self._report["transfers"] else tag

    @renderer
    def someTransfers(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return tag if self._report["transfers"] else ""

    @renderer
    def transfers(self, request: IRequest | None, tag: Tag) -> Flattenable:
        def rows() -> Generator[Flattenable, None, None]:
            for row in chain.from_iterable(map(_rowsOf, self._report["transfers"])):
                yield self._breath()
                yield _fill(tag.clone(), **row)

        return rows()

    @renderer
    def moreTransfers(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return _more(tag, self._report["moreTransfers"], "transfer")

    # Groups.

    @renderer
    def noGroups(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return "" if self._report["groups"] else tag

    @renderer
    def someGroups(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return tag if self._report["groups"] else ""

    @renderer
    def groups(self, request: IRequest | None, tag: Tag) -> Flattenable:
        def tables() -> Generator[Flattenable, None, None]:
            for group in self._report["groups"]:
                yield self._breath()
                shown = _fill(
                    tag.clone(),
                    name=group["name"],
                    group=group["group"],
                    transport=group["transport"],
                    blocks=_number(group["blocks"], "block"),
                )
                members = f"and {_number(group['more'], 'member')} more" if group["more"] else ""
                yield shown.fillSlots(members=self._members(group), more=members)

        return tables()

    def _members(self, group: GroupReport) -> Generator[Flattenable, None, None]:
        (row,) = _MEMBER.load()
        assert isinstance(row, Tag)
        for member in group["members"]:
            yield self._breath()
            yield _fill(row.clone(), **_memberSlots(group, member))

    @renderer
    def moreGroups(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return _more(tag, self._report["moreGroups"], "group")

    # Failures.

    @renderer
    def noFailures(self, request: IRequest | None, tag: Tag) -> Flattenable:
        found = self._report["failures"]
        if found:
            return ""
        return _fill(tag, why="Nothing has failed." if found is not None else "The history does not answer now.")

    @renderer
    def someFailures(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return tag if self._report["failures"] else ""

    @renderer
    def failures(self, request: IRequest | None, tag: Tag) -> Flattenable:
        return [
            _fill(
                tag.clone(),
                time=_showTime(each["time"]),
                address=each["address"] or "the server",
                message=each["message"],
                times=f" ({each['times']} times)" if each["times"] > 1 else "",
                why=each["why"] or "",
            )
            for each in self._report["failures"] or ()
        ]

    def _breath(self) -> Flattenable:
        """Return nothing to show, after a pause if one is due."""
        waiting = self._pause()
        return "" if waiting is None else waiting.addCallback(lambda _: "")


def _fill(tag: Tag, **slots: str) -> Tag:
    """Fill the slots of a tag with texts, made printable."""
    return tag.fillSlots(**{name: printable(text) for name, text in slots.items()})


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _more(tag: Tag, count: int, what: str) -> Flattenable:
    return _fill(tag, more=f"and {_number(count, what)} more") if count else ""


def _showTime(instant: str) -> str:
    """Write an instant of a report for people: to the second, in UTC."""
    return f"{instant[:10]} {instant[11:19]} UTC"


def _rowsOf(transfer: RatedTransfer) -> Iterator[dict[str, str]]:
    """Return the slots of the row of each receiver of a transfer, or of the one row of a transfer without any."""
    shared = {"transport": transfer["transport"], "rate": f"{showOctets(transfer['rate'])}/s"}
    if transfer["group"] is not None:
        shared["transport"] += f", group {transfer['group']}"
    elif transfer["kind"] == "upload":
        shared["transport"] += ", upload"
    for each in transfer["receivers"]:
        blocks = f"{each['sent']:,}" + (f" of {each['needed']:,}" if each["needed"] is not None else "")
        seconds = showSpan(each["seconds"])
        yield {**shared, "peer": each["peer"], "name": each["name"], "blocks": blocks, "seconds": seconds}
    if not transfer["receivers"]:
        blocks = "" if transfer["blocks"] is None else f"{transfer['blocks']:,}"
        nobody = {"peer": "nobody now", "name": transfer["name"] or "", "seconds": showSpan(transfer["seconds"])}
        yield {**shared, **nobody, "blocks": blocks}


def _memberSlots(group: GroupReport, member: MemberReport) -> dict[str, str]:
    """Return the slots of the row of a member: its map as paths of a drawing, and in words."""
    blocks, drawn = cells(group["blocks"], len(member["cells"])), member["cells"]
    paths, words, at = dict.fromkeys(CellState, ""), list[str](), 0
    for letter, run in groupby(drawn):
        state, length = CellState(letter), len(list(run))
        top, height = BARS[state]
        paths[state] += f"M{at} {top}h{length}v{height}h-{length}z"
        words.append(f"{WORDS[state]} {blocks[at].start + 1:,}–{blocks[at + length - 1].stop:,}")
        at += length
    more = f" and {len(words) - MOST_PARTS} more parts" if len(words) > MOST_PARTS else ""
    return {
        "peer": member["peer"],
        "has": f"{group['blocks'] - member['lacking']:,} of {group['blocks']:,}",
        "viewBox": f"0 0 {len(drawn)} 8",
        "runs": ", ".join(words[:MOST_PARTS]) + more,
        **{f"{state.name.lower()}Path": paths[state] for state in CellState},
    }
