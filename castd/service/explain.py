"""
Explains what a request would get, and why, without serving it: C{castd explain}.

It asks what serves, and in the same order: the dialects of an address, the limits, the access rules, the sources of
content or the places for uploads, then the dialects again, for what they would grant.  What L{Listener} and L{Opener}
do beside that is left out: no answer is sent, no cast begins, nothing is counted or logged, and no file is made.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import NotRequired, TypedDict, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from castd.config.config import Config, Entry
from castd.errors import Busy, Declined, Refused, Unanswered, WireError, WrongQuestion
from castd.files import names
from castd.files.access import Rule, Rules
from castd.files.chains import SinkChain
from castd.files.content import Directory
from castd.files.threads import asDeferred
from castd.files.uploads import UploadDirectory
from castd.group_pool import BorrowedGroups, OpenContext
from castd.interfaces import IContent, IContentSource, IExplainedDialect, ITransferHalf, IWindowHalf, IWire
from castd.machines.known import KnownMachine
from castd.networks import isMany
from castd.observe.report import FailureReport
from castd.options import HostPort, endpoint
from castd.packets.options import KNOWN
from castd.packets.tftp import Data, Error, Oack, TftpRequest, buildRequest, parse
from castd.request import Local, Peer, Request, hostPort
from castd.server.admission import DESCRIPTORS
from castd.server.listener import Listener
from castd.server.port_dialect import PortDialect
from castd.server.sessions import groupUse, joinable
from castd.server.site import Site
from castd.server.upload_protocol import fitWindow
from castd.service.address import ListeningAddress

#: The port that the client is taken to ask from: what is decided hardly ever depends on it.
CLIENT_PORT = 49152
#: Disks are waited for no longer than so many seconds, for all addresses together.
PATIENCE = 5.0
#: What the keys of access rules for some machines stand for.
_KEYS = {"mac": "MAC", "arch": "architecture", "uuid": "UUID"}
#: Why a file is refused whose mode, or that of a directory above it, is in the way.
_NO_PERMISSION = os.strerror(errno.EACCES)
#: The most access rules that are told one by one, before the one that decides.
MOST_RULES = 40

T = TypeVar("T")


class Step(TypedDict):
    """
    One step on the way of a request.

    C{step} is the kind of step: C{transport}, C{profile}, C{limit}, C{access}, C{name}, C{source}, C{upload} or
    C{option}.  C{where} is C{file:line: path} of what decides it in the service file; L{None}: nothing in it does.
    """

    step: str
    where: str | None
    text: str


class DryAnswer(TypedDict):
    """
    The first datagram that the client would get.

    C{kind} is C{OACK}, C{DATA}, C{ACK}, C{ERROR}, C{other} (of a protocol that has none of these) or C{nothing}.
    C{options} are those of an OACK, C{code} and C{text} those of an ERROR.
    """

    kind: str
    options: dict[str, str]
    code: int | None
    text: str


class Explanation(TypedDict):
    """What a request to one address would get; C{to} is that address, C{transport} the one that answers."""

    to: str
    transport: str | None
    served: bool
    answer: DryAnswer
    steps: list[Step]


class MachineReport(TypedDict):
    """What is known of a machine; L{None}: it is not.  See L{KnownMachine}."""

    mac: str | None
    uuid: str | None
    arch: str | None


class ExplainAnswer(TypedDict):
    """
    The answer to C{castd explain}.

    C{served} is whether one of the addresses would serve the request.  Only a running server tells the rest:
    C{machine} is the one that has the address of the client now.  C{before} is what has failed of the requests of this
    client for this file, the latest first; L{None}: the history does not answer.
    """

    served: bool
    explanations: list[Explanation]
    machine: NotRequired[MachineReport]
    before: NotRequired[list[FailureReport] | None]


@dataclass(frozen=True, slots=True)
class DryRequest:
    """
    The request that is explained.

    @ivar client: numeric address of the client.
    @ivar to: the address and port that it asks; L{None}: each that the service file has.
    """

    client: str
    name: str
    write: bool = False
    mode: str = "octet"
    options: tuple[tuple[str, str], ...] = ()
    to: tuple[str, int] | None = None

    @classmethod
    def read(cls, question: Mapping[str, object]) -> DryRequest:
        """
        Read a request from plain data, as it comes by the control socket.

        @raise WrongQuestion: it is none that a client could send.
        """
        client, name, mode = (_text(question, key) for key in ("client", "name", "mode"))
        given = question.get("options", [])
        if not isinstance(given, list):
            raise WrongQuestion("options: a list of texts such as blksize=1468 is expected")
        options = []
        for each in given:
            option, equals, value = str(each).partition("=")
            if not isinstance(each, str) or not (equals and option) or not each.isascii() or "\0" in each:
                raise WrongQuestion(f"options: {names.printable(str(each))} is not NAME=VALUE")
            options.append((option, value))
        to = question.get("to")
        if "\0" in name or "\0" in mode:
            raise WrongQuestion("name: no request can carry a NUL in it")
        place = None if to is None else _askedAddress(to)
        return cls(_clientAddress(client), name, bool(question.get("write")), mode or "octet", tuple(options), place)

    def datagram(self) -> bytes:
        """
        Return the request as it would come.

        @raise WrongQuestion: it cannot be written.
        """
        try:
            return buildRequest(TftpRequest(self.write, self.name, self.mode, self.options))
        except UnicodeError as error:
            raise WrongQuestion(f"name or mode: no request can carry it: {error}") from None


def _askedAddress(text: object) -> HostPort:
    """@raise WrongQuestion: it is not the address and port of a server."""
    try:
        return endpoint(text)
    except ValueError:
        shown = names.printable(str(text))
        raise WrongQuestion(f"to: {shown} is not an address and a port, such as 10.0.0.5:69") from None


def _clientAddress(text: str) -> str:
    """@raise WrongQuestion: it is not the address of one machine."""
    plain, percent, zone = text.partition("%")
    try:
        address = str(ip_address(plain))
    except ValueError:
        raise WrongQuestion(f"client: {names.printable(text)!r} is not an IP address, such as 10.0.0.5") from None
    if isMany(address, ()):
        raise WrongQuestion(f"client: {address} is the address of many machines: its requests get no answer")
    return f"{address}{percent}{zone}"


def _text(question: Mapping[str, object], key: str) -> str:
    value = question.get(key, "")
    if not isinstance(value, str):
        raise WrongQuestion(f"{key}: text is expected")
    return value


def explain(
    config: Config, site: Site, addresses: Sequence[ListeningAddress], draining: bool, asked: DryRequest
) -> Deferred[ExplainAnswer]:
    """
    Explain what a request would get at each address that it may come to.

    @param config: the service file in force.
    @param draining: new requests are not served any more.
    """
    return Deferred.fromCoroutine(_explainEach(config, site, addresses, draining, asked))


async def _explainEach(
    config: Config, site: Site, addresses: Sequence[ListeningAddress], draining: bool, asked: DryRequest
) -> ExplainAnswer:
    until = site.reactor.seconds() + PATIENCE
    explanations = [
        await _Explainer(config, site, each, each.transport, draining, asked, until).explain()
        for each in addresses
        if isinstance(each.transport, Listener) and _comesTo(each, asked)
    ]
    if not explanations:
        explanations.append(_notListening(asked))
    return {"served": any(each["served"] for each in explanations), "explanations": explanations}


def _comesTo(address: ListeningAddress, asked: DryRequest) -> bool:
    """Return whether the request may come to this address: of the client's family, and the one that it asks."""
    interface, port = address.bindAddress
    if address.retiring or (":" in interface) != (":" in asked.client):
        return False
    return asked.to is None or (asked.to[1] == port and interface in ("", "::", asked.to[0]))


def _notListening(asked: DryRequest) -> Explanation:
    where = "any address of the client's family" if asked.to is None else hostPort(asked.to)
    step: Step = {
        "step": "transport",
        "where": None,
        "text": f"no transport that serves requests for files listens at {where}",
    }
    to = "" if asked.to is None else hostPort(asked.to)
    return {"to": to, "transport": None, "served": False, "answer": _answer("nothing"), "steps": [step]}


def _answer(kind: str, options: Iterable[tuple[str, str]] = (), code: int | None = None, text: str = "") -> DryAnswer:
    return {"kind": kind, "options": dict(options), "code": code, "text": text}


def _answerOf(datagram: bytes) -> DryAnswer:
    """Return what a datagram of a server says."""
    try:
        packet = parse(datagram)
    except WireError:
        return _answer("other")
    if isinstance(packet, Oack):
        return _answer("OACK", packet.options)
    if isinstance(packet, Error):
        return _answer("ERROR", (), packet.code, packet.text)
    return _answer("DATA" if isinstance(packet, Data) else "ACK")


class _Explainer:
    """
    Explains one request to one address.

    @ivar steps: what was found out so far.
    """

    def __init__(
        self,
        config: Config,
        site: Site,
        address: ListeningAddress,
        listener: Listener,
        draining: bool,
        asked: DryRequest,
        until: float,
    ) -> None:
        """@param until: disks that have not answered by this instant are not waited for."""
        self.steps: list[Step] = []
        self._config, self._site, self._listener = config, site, listener
        self._entries = {each.name: each for each in address.entries}
        self._draining, self._until = draining, until
        self._asked = asked
        self._peer: Peer = (asked.client, CLIENT_PORT)
        interface, port = address.bindAddress
        self._local: Local = site.ports.localFor(asked.to[0] if asked.to else interface, port, asked.client)
        self._port = address.port
        self._datagram = self._opening()

    async def explain(self) -> Explanation:
        """Explain the request."""
        if self._draining:
            self._tell("transport", "the server is stopping: new requests are not answered")
            return self._unanswered(None)
        return await self._serve(0)

    def _opening(self) -> bytes:
        """Return the datagram that asks: that of a protocol with requests of its own, or a request of TFTP's."""
        for each in self._listener.dialects:
            if IExplainedDialect.providedBy(each.dialect) and not self._asked.write:
                own: bytes | None = each.dialect.opening(self._asked.name)
                if own is not None:
                    return own
        return self._asked.datagram()

    # What is told.

    def _tell(self, step: str, text: str, entry: Entry | None = None, where: str | None = None) -> None:
        """
        Add a step.

        @param entry: what the text is about, see L{Entry.locate}.
        @param where: the place in the service file, if there is no entry.
        """
        if entry is not None:
            where, text = entry.locate(text)
        self.steps.append({"step": step, "where": where, "text": text})

    def _entry(self, spoken: PortDialect) -> Entry | None:
        return self._entries.get(spoken.name)

    def _result(self, entry: PortDialect | None, served: bool, answer: DryAnswer) -> Explanation:
        transport = None if entry is None else entry.name
        to = hostPort((self._local.host, self._local.port))
        return {"to": to, "transport": transport, "served": served, "answer": answer, "steps": self.steps}

    def _unanswered(self, entry: PortDialect | None) -> Explanation:
        return self._result(entry, False, _answer("nothing"))

    def _unread(self, entry: PortDialect, error: WireError) -> Explanation:
        self._tell("transport", f"cannot read the request: {error}", self._entry(entry))
        return self._unanswered(entry)

    def _refused(self, entry: PortDialect, request: Request | None, error: Refused) -> Explanation:
        """Return what a client is sent that is refused, as C{Refusals.refuse} of L{castd.server.refusals} sends it."""
        self._tell("transport", f"refuses the request: {error}", self._entry(entry))
        if isinstance(error, Unanswered):
            return self._unanswered(entry)
        datagram = entry.dialect.refuse(request, error)
        return self._unanswered(entry) if datagram is None else self._result(entry, False, _answerOf(datagram))

    # The way of the request, as in castd.server.listener.

    async def _serve(self, first: int) -> Explanation:
        """Find the dialect that reads the request, beginning with number C{first}."""
        for number, entry in enumerate(self._listener.dialects[first:], first):
            try:
                request = entry.dialect.request(self._datagram, self._peer, self._local)
            except WireError as error:
                return self._unread(entry, error)
            except Refused as error:
                return self._refused(entry, None, error)
            if request is not None:
                return await self._admit(number, entry, request)
            self._tell("transport", "does not read such a request", self._entry(entry))
        self._tell("transport", "no transport at this address reads such a request")
        return self._unanswered(None)

    async def _admit(self, number: int, entry: PortDialect, request: Request) -> Explanation:
        self._tell("transport", "reads the request", self._entry(entry))
        if request.name != self._asked.name:
            self._tell("name", f"is taken as {names.printable(request.name)}", self._entry(entry))
        request = await self._profiled(entry, request)
        if self._limited(entry, request):
            return self._unanswered(entry)
        why = self._barred(request) if request.options else None
        if why is not None and not self._listener.serves(request.peer[0]):
            return self._refused(entry, request, Busy(why=why))
        if not request.write:
            return await self._read(number, entry, request)
        half = entry.dialect.uploadReceiver(request)
        if half is None:
            self._tell("transport", "takes no uploads", self._entry(entry))
            return await self._serve(number + 1)
        return await self._write(entry, request, half)

    async def _profiled(self, entry: PortDialect, request: Request) -> Request:
        """Tell which profiles are for the client, and what they change.  -> the request with that."""
        profiles = self._site.profiles
        found = profiles.matching(request, entry.name) if profiles is not None and entry.profiled else ()
        if profiles is None or not found:
            return request
        machine = None
        if any(each.byMachine for each in found):
            asked = self._site.machines.machineOf(request.peer, request.local.host)
            machine = await self._inTime(asDeferred(asked))
        changed, applied = profiles.apply(request, found, machine)
        name = request.name
        for each in applied:
            where = None
            if each.place:
                number = self._config.profiles.own.index(each.options)
                where = self._config.tree.where(("profiles", "own", number))
            mended = each.mend(name)
            becomes = () if mended == name else (f"the name becomes {names.printable(mended)}",)
            name = mended
            text = "; ".join((*each.changes(), *becomes)) or "the client is known by it; nothing is changed"
            self._tell("profile", f"{each.options.name}: {text}", where=where)
        return changed

    def _limited(self, entry: PortDialect, request: Request) -> bool:
        """Tell which limits apply.  -> whether one of them is reached now."""
        admission, limits, host = self._site.admission, self._site.limits, request.peer[0]
        self._limit("per-peer", f"{admission.used(host)} of {limits.perPeer} transfers of this address are under way")
        casts = f"{admission.casts + admission.looking} of {limits.casts} casts are under way"
        if admission.affordable < limits.casts:
            casts += f", and there are descriptors for {admission.affordable:.0f} ({DESCRIPTORS})"
        self._limit("casts", casts)
        self._limit("receivers", f"there are {admission.receivers.total()} of {limits.receivers} receivers")
        self._limit("new-per-peer", f"at most {limits.newPerPeer:g} new transfers of this address a second")
        if limits.rate is not None:
            self._limit("rate", f"at most {limits.rate:.0f} octets a second, of all casts together")
        if entry.options.rate is not None:
            self._tell("limit", f"rate: at most {entry.options.rate:.0f} octets a second", self._entry(entry))
        reached = admission.reached(request.peer, self._site.reactor.seconds(), request.local.networks)
        if reached is not None:
            text = "is reached: there is no answer, the client asks again"
            if reached == DESCRIPTORS:
                self._tell("limit", f"{reached} {text}")
            else:
                self._limit(reached.partition(".")[2], text)
        return reached is not None

    def _limit(self, key: str, text: str) -> None:
        """Tell about a limit; one that the service file does not name has its default."""
        route, tree = ("limits", key), self._config.tree
        named = route in tree.lines
        self._tell("limit", text if named else f"limits.{key}: {text}", where=tree.where(route) if named else None)

    def _barred(self, request: Request) -> str | None:
        """Return why another transport has this file refused to this client; nothing is counted."""
        barred = (why for host, name, _, why in self._site.bars() if (host, name) == (request.peer[0], request.name))
        return next(barred, None)

    # Access rules.

    async def _machineFor(self, request: Request) -> KnownMachine | None:
        """Return what is known of the machine; L{None}: access does not depend on it."""
        rules = self._site.rules
        try:
            if rules is None or not rules.dependsOnMachine(request.peer[0], request.name, request.write):
                return None
        except Refused:
            return None
        return await self._inTime(self._site.machineOf(request))

    def _access(self, request: Request, machine: KnownMachine | None) -> None:
        """Tell which rules were looked at, and which one decides."""
        rules, config = self._site.rules, self._config.access
        if rules is None or config is None:
            text = "there are no access rules: " + ("nobody may write" if request.write else "all may read")
            self._tell("access", text)
            return
        try:
            decides = rules.deciding(request.peer[0], request.name, request.write, machine)
        except Refused as error:
            self._tell("access", f"the name cannot be matched: {error}")
            return
        last = len(config) if decides is None else decides
        if last > MOST_RULES:
            self._tell("access", f"{last - MOST_RULES} rules before these do not match either")
        for number in range(max(0, last - MOST_RULES), last):
            text = f"does not match: it is for other {_mismatch(config[number], request, machine)}"
            self._tell("access", text, where=self._config.tree.where(("access", number)))
        if decides is None:
            self._tell("access", "no access rule matches: denied")
        else:
            rule = config[decides]
            word = "denies it" if rule.allow is None else "allows it"
            if rule.machineKeys and machine is not None:
                word += f" by the {_named(rule, machine)} that the machine seems to have; it can be forged"
            self._tell("access", word, where=self._config.tree.where(("access", decides)))

    # Reads.

    async def _read(self, number: int, entry: PortDialect, request: Request) -> Explanation:
        known = await self._machineFor(request)
        self._access(request, known)
        missed: list[Refused] = []
        content: IContent | None = None
        refusal: Refused | None = None
        try:
            content = await self._inTime(self._site.look(request, missed.append))
        except Refused as error:
            refusal = error
        try:
            if self._mayRead(request, known):
                await self._sources(request, missed, refusal)
            if content is None or refusal is not None:
                return self._refused(entry, request, refusal or Unanswered())
            return self._offer(content, self._listener.dialects[number:], request)
        finally:
            if content is not None:
                content.close()

    def _mayRead(self, request: Request, machine: KnownMachine | None) -> bool:
        """Return whether the access rules let the request come to the sources."""
        try:
            if self._site.rules is not None:
                self._site.rules.check(request.peer[0], request.name, False, machine)
        except Refused:
            return False
        return True

    async def _sources(self, request: Request, missed: Sequence[Refused], refusal: Refused | None) -> None:
        """
        Tell what each source has said.

        @param missed: the reasons of those that do not have the file; the one after them has it, or has refused it.
        @param refusal: why the request is refused; L{None}: the file was found.
        """
        machine = await self._inTime(self._site.machineOf(request))
        asked = zip(self._config.content, self._site.content.sources, strict=True)
        for number, (entry, source) in enumerate(asked):
            if number > len(missed):
                break
            reason = missed[number] if number < len(missed) else refusal
            parts = self._path(entry, source, request, machine)
            if number == len(missed):
                self._tell("source", "has it" if reason is None else f"refuses it: {reason}", entry)
                if parts is not None and isinstance(source, Directory) and str(reason) == _NO_PERMISSION:
                    await self._closed(entry, source, parts)
                continue
            self._tell("source", f"does not have it: {reason}", entry)
            if parts is not None and isinstance(source, Directory):
                await self._nearest(entry, source, parts)

    def _path(
        self, entry: Entry, source: IContentSource, request: Request, machine: KnownMachine
    ) -> names.Parts | None:
        """Tell what a directory makes of the name.  -> the parts of the path; L{None}: it has none."""
        if not isinstance(source, Directory):
            return None

        before = [request.name]

        def seen(key: str, name: str) -> None:
            text = "changes nothing" if name == before[-1] else f"the name becomes {names.printable(name)}"
            self._tell("name", f"{key}: {text}", entry)
            before.append(name)

        try:
            parts = source.partsFor(request.name, machine, seen)
        except Refused:
            return None
        self._tell("source", f"path: looks for {source.options.base / names.text(parts)}", entry)
        return parts

    async def _nearest(self, entry: Entry, source: Directory, parts: names.Parts) -> None:
        """Tell how far the path exists, and which name differs from it in case only."""
        try:
            exists, nearest = await self._inTime(source.nearest(parts))
        except Refused:
            return
        if exists < len(parts):
            there, absent = (source.options.base / names.text(parts[:end]) for end in (exists, exists + 1))
            self._tell("source", f"{there} is there, {absent} is not", entry)
        if nearest is not None:
            text = f"{source.options.base / names.text(nearest)} is there, and differs in case only (ignore-case)"
            self._tell("source", text, entry)

    async def _closed(self, entry: Entry, source: Directory, parts: names.Parts) -> None:
        """Tell which directory or file on the way castd's user may not use."""
        try:
            closed = await self._inTime(source.closedAt(parts))
        except Refused:
            return
        what = "read" if closed == parts else "search"
        path = source.options.base / names.text(closed)
        self._tell("source", f"user {os.geteuid()} may not {what} {path}: namei -l {path}", entry)

    def _offer(self, content: IContent, entries: Sequence[PortDialect], request: Request) -> Explanation:
        """Offer a file that was found to one dialect after the other, as L{Opener.offer}."""
        self._tell("source", f"{content.size} octets")
        for entry in entries:
            try:
                asked = request
                if entry is not entries[0]:
                    again = entry.dialect.request(self._datagram, self._peer, self._local)
                    if again is None:
                        continue
                    asked = again.readAgain(request)
                return self._open(content, entry, asked)
            except WireError as error:
                return self._unread(entry, error)
            except Declined as error:
                self._tell("transport", f"does not serve it: {error.reason}; the next one is asked", self._entry(entry))
            except Refused as error:
                return self._refused(entry, request, error)
        self._tell("transport", "no transport at this address serves it")
        return self._unanswered(None)

    def _open(self, content: IContent, entry: PortDialect, request: Request) -> Explanation:
        """
        Return what the client would get from this dialect.

        @raise Declined, Refused: it does not serve the request.
        """
        key = entry.dialect.key(request, content)
        cast = joinable(entry, key, request)
        if cast is not None:
            if cast.isFull(request.peer):
                raise Unanswered(why="the group has no room for another receiver now; who asks again gets in")
            self._listener.opener.declineDeaf(request)
            self._tell("transport", "it joins the group that receives this file already", self._entry(entry))
            return self._granted(entry, request, cast.wire)
        now = self._site.reactor.seconds()
        groups = BorrowedGroups(self._site.groupPool)
        wire = entry.dialect.open(request, content, OpenContext(now, Random(), groups))
        try:
            if wire.group is not None:
                self._listener.opener.declineDeaf(request)
                if not entry.dialect.ownPort and not groups.isFree(wire.group, groupUse(wire, content), now):
                    raise Declined("group in use for another file")
            return self._granted(entry, request, wire)
        finally:
            wire.close(now)

    def _granted(self, entry: PortDialect, request: Request, wire: IWire) -> Explanation:
        if wire.group is not None:
            self._tell("transport", f"sends to the group {hostPort(wire.group)}", self._entry(entry))
        datagram = next((data for data, peer in wire.announce(request, True, False) if peer == request.peer), None)
        answer = _answer("DATA") if datagram is None else _answerOf(datagram)
        self._options(entry, request, answer)
        return self._result(entry, True, answer)

    def _options(self, entry: PortDialect, request: Request, answer: DryAnswer) -> None:
        """Tell which options are granted, and what bounds them."""
        if IExplainedDialect.providedBy(entry.dialect):
            for text in entry.dialect.bounds(request):
                self._tell("option", text, self._entry(entry))
        granted = {name.lower(): value for name, value in answer["options"].items()}
        for name, value in request.options:
            got = granted.get(name.lower())
            text = f"granted as {got}"
            if got is None:
                known = name.lower() in KNOWN
                text = "not granted" + ("" if known else f": {entry.name} knows no such option")
            self._tell("option", f"{names.printable(name)}={names.printable(value)}: {text}")

    # Writes.

    async def _write(self, entry: PortDialect, request: Request, half: ITransferHalf) -> Explanation:
        known = await self._machineFor(request)
        self._access(request, known)
        told: list[Refused | None] = []

        def tell(_: UploadDirectory, refusal: Refused | None) -> None:
            text = "takes it" if refusal is None else f"does not take it: {refusal}"
            self._tell("upload", text, self._config.uploads[len(told)])
            told.append(refusal)

        try:
            sink = self._site.sinkFor(request, known)
            if isinstance(sink, SinkChain):
                await self._inTime(sink.check(request.name, request.peer, half.size, tell))
        except Refused as error:
            return self._refused(entry, request, error)
        if IWindowHalf.providedBy(half):
            ownPort = entry.dialect.ownPort
            with suppress(OSError):
                fitWindow(half, self._port.holdWindow if self._port and not ownPort else self._site.ports.windowRoom)
        answer = _answerOf(half.begin(self._site.reactor.seconds())[0])
        self._options(entry, request, answer)
        return self._result(entry, True, answer)

    def _inTime(self, found: Deferred[T]) -> Awaitable[T]:
        """Let a Deferred fail with L{Unanswered} if it has not fired in time: its disk hangs."""
        if not found.called or found.paused:
            clock = self._site.reactor
            found.addTimeout(max(0.1, self._until - clock.seconds()), clock, _tooSlow)
        return found


def _tooSlow(result: object, seconds: float) -> Failure | object:
    if isinstance(result, Failure) and result.check(CancelledError) is None:
        return result
    return Failure(Unanswered(why="its disk does not answer"))


def _mismatch(rule: Rule, request: Request, machine: KnownMachine | None) -> str:
    """
    Return for what else a rule is that does not match a request: other clients, other names, the other use, or other
    machines.
    """
    anyMachine = rule.model_copy(update=dict.fromkeys(rule.machineKeys))
    for word, loosened in (("clients", {"use": None, "names": None}), ("names", {"use": None})):
        if not _matches(anyMachine.model_copy(update=loosened), request):
            return word
    if not _matches(anyMachine, request):
        return f"uses, to {rule.use}"
    known = ", ".join(_known(rule, machine or KnownMachine(request.peer)))
    return f"machines, and of this one {known}"


def _known(rule: Rule, machine: KnownMachine) -> Iterator[str]:
    """Return what a rule asks of a machine, and the machine has, or that it is not known."""
    for key in rule.machineKeys:
        value = getattr(machine, key)
        yield f"no {_KEYS[key]} is known" if value is None else f"the {_KEYS[key]} is {value}"


def _named(rule: Rule, machine: KnownMachine) -> str:
    """Return by what a rule matches a machine."""
    return " and ".join(f"{_KEYS[key]} {getattr(machine, key)}" for key in rule.machineKeys)


def _matches(rule: Rule, request: Request) -> bool:
    """Return whether a rule alone would decide; also where only a malformed name keeps it from that."""
    try:
        return Rules([rule]).deciding(request.peer[0], request.name, request.write) is not None
    except Refused:
        return True
