"""
Runs a proxydhcp: hears requests, has the files looked up, sends what was decided, and writes the log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import TypeAlias

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ConfigError, NotFound, Refused, Unavailable, WireError
from castd.files import names
from castd.files.threads import Waiters
from castd.interfaces import IContent, IListeningPort, IPortService, IServiceFile, ISite, ServicePort
from castd.options import AnyNetwork
from castd.packets import dhcp, pxe
from castd.proxydhcp.answers import Answer, BootRules, Candidate, answer, candidates, unmatched
from castd.proxydhcp.checks import Checker
from castd.proxydhcp.fetches import Awaited, AwaitedFetches
from castd.proxydhcp.limits import MOST_REFUSALS, AnswerLimits, Recent
from castd.proxydhcp.options import ASK, DIRECT, Options
from castd.proxydhcp.requests import (
    ACCESS,
    DISCOVER,
    LIMIT,
    MISSING,
    RULE,
    BootRequest,
    Reach,
    Silence,
    kindOf,
    read,
)
from castd.proxydhcp.rivals import MOST_RIVALS, TELL_AGAIN, rival
from castd.request import Local, Peer, Request, hostPort
from castd.verdicts import Facts, verdictFields

__all__ = ["Options", "makeService"]

_log = Logger(namespace="castd")

#: Seconds for which it is known whether a file is there.
FRESH = 1.0
#: The most files of which that is known.
MOST_KNOWN = 1024
#: The most seconds that files are looked for: a client that waits longer has gone on.
LONGEST_LOOKUP = 0.5
#: The most machines that have fetched nothing of which a line is written at once: a hall may have been told together.
MOST_TOLD = 16
#: Seconds until another line says the same of a machine.
TELL_MISSING = 60.0

_EVERYBODY = "255.255.255.255"
#: A name, the networks of a client, and its MAC if that matters.
_FileKey: TypeAlias = tuple[str, tuple[AnyNetwork, ...], str | None]


def makeService(name: str, options: Options, site: ISite) -> ProxyDhcp:
    """Make a service with these options; it opens no port."""
    return ProxyDhcp(name, options, site)


class KnownFiles:
    """Finds out whether files can be read, and remembers it for a second."""

    def __init__(self, site: ISite) -> None:
        self._site = site
        self._known: OrderedDict[_FileKey, tuple[float, str]] = OrderedDict()
        self._asked: dict[_FileKey, Waiters[str]] = {}

    def reasonAgainst(self, name: str, networks: tuple[AnyNetwork, ...], mac: str | None) -> Deferred[str]:
        """
        Find out why a client of these networks cannot read a file.

        @param mac: of the client's machine, for content that depends on it.
        @return: fires with L{MISSING} or L{ACCESS}; C{""}: it can.  It may be cancelled.
        """
        key = name, networks, mac if self._site.byMachine else None
        until, known = self._known.get(key, (0.0, ""))
        if self._site.reactor.seconds() < until:
            return succeed(known)
        begins = key not in self._asked
        waiting = self._asked.setdefault(key, Waiters()).add()
        if begins:
            found = maybeDeferred(self._site.lookupAny, *key)
            found.addCallbacks(_isThere, _isNot).addErrback(_failed, name).addCallback(self._learned, key)
        return waiting

    def _learned(self, reason: str, key: _FileKey) -> None:
        self._known.pop(key, None)
        self._known[key] = self._site.reactor.seconds() + FRESH, reason
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        self._asked.pop(key).fire(reason)


def _isThere(content: IContent) -> str:
    content.close()
    return ""


def _isNot(failure: Failure) -> str:
    failure.trap(Refused)
    return MISSING if failure.check(NotFound) else ACCESS


def _failed(failure: Failure, name: str) -> str:
    _log.failure("looking for {name} failed", failure, event="fault", name=name)
    return MISSING


class Memory:
    """
    What outlives a reload.

    @ivar limits: how much was answered.
    @ivar awaited: machines that are to fetch what they were told.
    @ivar missing: what was written of files that are not there.
    @ivar rivals: other proxies that were heard, of which a line was written.
    @ivar servers: the same for DHCP servers that say what to boot.
    """

    def __init__(self, options: Options) -> None:
        self.limits = AnswerLimits(options.answers, options.answersPerMachine)
        self.awaited = AwaitedFetches()
        self.missing: Recent[tuple[str, str]] = Recent(MOST_REFUSALS)
        self.rivals: Recent[str] = Recent(MOST_RIVALS)
        self.servers: Recent[str] = Recent(MOST_RIVALS)


@implementer(IPortService)
class ProxyDhcp:
    """
    Tells machines what to boot, at one interface.

    @ivar ports: see L{IPortService}.
    """

    def __init__(self, name: str, options: Options, site: ISite) -> None:
        self.name, self.options = name, options
        self._site = site
        self._own = IPv4Address(options.interface)
        self._reach = Reach(self._own, options.clients, options.relays)
        self._local = Local(options.interface, 0)
        self._checker: Checker | None = None
        self._rules = BootRules()
        self._files = KnownFiles(site)
        self._memory = Memory(options)
        # The one that has inherited the memory: it alone waits for machines.  Not the other way round, nor in the
        # memory: a circle would keep the directories of the file that it was in open.
        self._successor: ProxyDhcp | None = None
        self._open: dict[ServicePort, IListeningPort] = {}
        self._watching: IDelayedCall | None = None
        self._waiting: set[Deferred[None]] = set()
        self._drained: Deferred[None] | None = None
        near = f"%{options.interface}"
        remedy = (
            "a DHCP server shares it if it is told to (dnsmasq: bind-interfaces); or port-67: false uses port 4011 "
            "alone, if the DHCP server there sends option 60 = PXEClient"
        )
        self._broadcasts = ServicePort(_EVERYBODY + near, dhcp.SERVER_PORT, remedy=remedy)
        remedy = "relays: true needs it for itself, so the DHCP server has to be on another machine"
        self._relayed = ServicePort(options.interface, dhcp.SERVER_PORT, remedy=remedy)
        self._boot = ServicePort(options.interface, dhcp.BOOT_PORT)
        self._group = ServicePort((options.discovery or "") + near, dhcp.BOOT_PORT)
        self._clients = ServicePort(_EVERYBODY + near, dhcp.CLIENT_PORT, required=False)
        wanted = {
            self._broadcasts: options.port67,
            self._relayed: options.relays,
            self._boot: True,
            self._group: options.discovery is not None,
            self._clients: options.watch,
        }
        self.ports = tuple(port for port, is_ in wanted.items() if is_)

    # The service file.

    def configure(self, file: IServiceFile) -> Iterator[None]:
        """As L{IPortService.configure}: a step for each rule."""
        rules, checker = BootRules(), Checker(self.options, file, self._site.ports.reached(self.options.interface))
        for inForce in checker.check():
            rules.add(inForce)
            yield
        faults, missing = checker.faults, checker.missing
        if faults:
            raise ConfigError(*missing, *faults)
        if missing:
            raise Unavailable(*missing)
        self._checker, self._rules = checker, rules

    def warnings(self) -> Iterator[str]:
        """As L{IPortService.warnings}."""
        return iter(()) if self._checker is None else self._checker.warnings()

    # Ports.

    @property
    def counts(self) -> Mapping[str, int]:
        """As L{IPortService.counts}: other proxies that were heard in the last hour."""
        return {"rivals": self._memory.rivals.lasting(self._site.reactor.seconds())}

    def opened(self, at: ServicePort, port: IListeningPort) -> None:
        """As L{IPortService.opened}."""
        self._drained = None
        self._open[at] = port
        if self._fetching not in self._site.observers:
            self._site.observers.append(self._fetching)

    def closed(self, at: ServicePort) -> None:
        """As L{IPortService.closed}."""
        self._open.pop(at, None)
        if not self._open:
            self._stopWatching()

    def inherit(self, other: object) -> None:
        """As L{IPortService.inherit}."""
        if isinstance(other, ProxyDhcp) and other._memory is not self._memory:
            self._memory = other._memory
            other._successor = self
            self._memory.limits.adjust(self.options.answers, self.options.answersPerMachine)
            other._stopWatching()
            self._watchFetches()

    def drain(self) -> Deferred[None]:
        """As L{IPortService.drain}."""
        if self._drained is None:
            self._drained = Deferred()
            if self._watching is not None:
                # Another process serves what they fetch, or none; a service that has inherited them watches itself.
                self._memory.awaited.clear()
                self._stopWatching()
            self._checkDrained()
        drained: Deferred[None] = Deferred()
        self._drained.chainDeferred(drained)
        return drained

    def _checkDrained(self) -> None:
        if self._drained is not None and not self._waiting and not self._drained.called:
            self._drained.callback(None)

    def stop(self) -> None:
        """As L{IPortService.stop}."""
        self._stopWatching()
        for each in list(self._waiting):
            each.cancel()

    def _stopWatching(self) -> None:
        if self._fetching in self._site.observers:
            self._site.observers.remove(self._fetching)
        if self._watching is not None and self._watching.active():
            self._watching.cancel()
        self._watching = None

    # Datagrams.

    def datagramFrom(self, at: ServicePort, datagram: bytes, peer: Peer, local: Local) -> None:
        """As L{IPortService.datagramFrom}."""
        if self._drained is not None:
            return
        try:
            if at == self._clients:
                self._hearServer(datagram, peer)
            else:
                self._hearMachine(at, datagram, peer, local)
        except WireError as error:
            _log.debug(
                "{transport}: {peer} has sent what cannot be read: {why}",
                event="malformed",
                transport=self.name,
                peer=peer[0],
                why=str(error),
            )

    def _hearMachine(self, at: ServicePort, datagram: bytes, peer: Peer, local: Local) -> None:
        packet = dhcp.parse(datagram)
        atBootPort = at.port == dhcp.BOOT_PORT
        self._count(kindOf(packet, atBootPort))
        request = read(packet, atBootPort, peer, local, self._reach)
        now = self._site.reactor.seconds()
        if isinstance(request, Silence):
            self._silent(request, packet.hardwareAddress)
            return
        self._remember(request)
        if self._memory.limits.isNew(request.identity, now):
            self._admit(request, now)

    def _remember(self, request: BootRequest) -> None:
        """Note what a machine says of itself, for names and content that depend on it."""
        machine = request.machine
        if machine.mac is not None:
            arch = pxe.architectureName(machine.architectures[0])
            ip = str(request.address) if request.kind != DISCOVER else None
            self._site.machines.hear(machine.mac, machine.uuid, arch, ip)

    def _count(self, kind: str) -> None:
        _log.debug("{transport}: a request ({kind})", event="pxe-request", transport=self.name, kind=kind)

    def _admit(self, request: BootRequest, now: float) -> None:
        """Serve a request now, or as soon as the limits allow it; not at all if they do not."""
        found = tuple(candidates(self._rules.near(request), request, self._own))
        if not found:
            self._unmatched(request, now)
            return
        wait = None
        if self._memory.limits.machineMay(*request.source, now):
            wait = self._memory.limits.turn(request.source, now)
        if wait is None:
            self._silent(Silence(LIMIT), request.machine.address)
            return
        serving = Deferred.fromCoroutine(self._serve(request, found, wait))
        serving.addErrback(self._serveFailed)
        if not serving.called:
            self._waiting.add(serving)
            serving.addBoth(self._served, serving)

    def _served(self, _: object, serving: Deferred[None]) -> None:
        self._waiting.discard(serving)
        self._checkDrained()

    def _serveFailed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("{transport}: a request failed", failure, event="fault", transport=self.name)

    async def _serve(self, request: BootRequest, found: Sequence[Candidate], wait: float) -> None:
        """Wait for a turn, then answer a request, if the file of one of these rules is there."""
        if wait > 0:
            await self._later(wait)
        answering = Deferred.fromCoroutine(self.decide(request, found))
        if not answering.called:
            answering.addTimeout(LONGEST_LOOKUP, self._site.reactor, onTimeoutCancel=_tookTooLong)
        decided = await answering
        if isinstance(decided, Silence):
            self._silent(decided, request.machine.address, _architecture(request))
        else:
            self._send(request, decided)

    def _later(self, seconds: float) -> Deferred[None]:
        waiting: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._site.reactor.callLater(seconds, waiting.callback, None)
        return waiting

    async def decide(self, request: BootRequest, found: Iterable[Candidate]) -> Answer | Silence:
        """Return the answer by the first of these rules that has its file, or why there is none."""
        reason, missing = RULE, ""
        for candidate in found:
            there = set()
            for name in candidate.wanted:
                against = await self._files.reasonAgainst(name, request.networks, request.machine.mac)
                if against:
                    reason, missing = against, missing or name
                else:
                    there.add(name)
            decided = answer(request, candidate, there, self._own, self.options.discovery)
            if decided is not None:
                return decided
            if there:
                return Silence(LIMIT, "takes no packet as long as its answer")
        told = "the access rules do not give it" if reason == ACCESS else "is not there"
        return Silence(reason, told if missing else "", missing)

    def simulate(self, datagram: bytes, atBootPort: bool, peer: Peer, local: Local) -> Deferred[Answer | Silence]:
        """
        Find out what a request would be answered with.  Nothing is sent, logged or counted.

        @raise WireError: the datagram cannot be read.
        """
        return Deferred.fromCoroutine(self._simulate(datagram, atBootPort, peer, local))

    async def _simulate(self, datagram: bytes, atBootPort: bool, peer: Peer, local: Local) -> Answer | Silence:
        request = read(dhcp.parse(datagram), atBootPort, peer, local, self._reach)
        if isinstance(request, Silence):
            return request
        found = tuple(candidates(self._rules.near(request), request, self._own))
        return await self.decide(request, found) if found else Silence(RULE, unmatched(self._rules, request))

    # What is sent and told.

    def _send(self, request: BootRequest, decided: Answer) -> None:
        at = self._boot if request.kind != DISCOVER else self._relayed if request.relay else self._broadcasts
        port = self._open.get(at)
        if port is None:
            return
        try:
            port.writeFrom(decided.datagram, decided.to, self._local)
        except OSError as error:
            form = "{transport}: no answer to {machine}, at {to}: {why}"
            why = error.strerror or "it could not be sent"
            told = {"transport": self.name, "machine": request.machine.address, "to": hostPort(decided.to), "why": why}
            _log.warn(form, event="unsendable", **told)
            return
        self._tellAnswer(request, decided)
        inForce = self
        while inForce._successor is not None:
            # After a reload this service answers what it has begun to.
            inForce = inForce._successor
        if decided.name and inForce._drained is None:
            host = str(request.address) if request.kind != DISCOVER else None
            now = self._site.reactor.seconds()
            self._memory.awaited.add(Awaited(request.machine.address, decided.name, host, decided.form, now))
            inForce._watchFetches()

    def _tellAnswer(self, request: BootRequest, decided: Answer) -> None:
        told = {
            "transport": self.name,
            "machine": request.machine.address,
            "arch": pxe.architectureName(decided.architecture),
            "file": decided.file or "a menu",
            "server": self.options.interface,
            "rule": decided.rule,
            "form": decided.form,
            "kind": request.kind,
            "uuid": request.machine.uuid,
            "xid": request.packet.xid.hex(),
            "relay": str(request.relay) if request.relay else None,
            "interface": self.options.interface,
        }
        what = "{file} from {server} (rule {rule}, {form})"
        if request.kind == DISCOVER:
            _log.info(f"{{machine}} {{arch}}: offered {what}", event="offered", **told)
        else:
            _log.info(f"{{machine}} {{arch}}: acknowledged {what}", event="acknowledged", **told)

    def _silent(self, silence: Silence, machine: str, arch: str = "") -> None:
        """Count a request that is not answered; write a line, once a minute, where an operator can do something."""
        self._countSilent(silence.reason, machine)
        now, about = self._site.reactor.seconds(), silence.name or silence.told
        if silence.told and self._memory.missing.begin((machine, about), now, TELL_MISSING):
            self._tellSilent(silence, machine, arch)

    def _unmatched(self, request: BootRequest, now: float) -> None:
        """
        As L{_silent}, where no rule is for a request.  Which one comes nearest depends on all that the machine says,
        and is looked for only where there is to be a line.
        """
        machine = request.machine.address
        self._countSilent(RULE, machine)
        if self._memory.missing.begin((machine, RULE), now, TELL_MISSING):
            self._tellSilent(Silence(RULE, unmatched(self._rules, request)), machine, _architecture(request))

    def _countSilent(self, reason: str, machine: str) -> None:
        form = "{transport}: {machine} is not answered: {reason}"
        _log.debug(form, event="pxe-silent", transport=self.name, machine=machine, reason=reason)

    def _tellSilent(self, silence: Silence, machine: str, arch: str) -> None:
        about = f"{names.printable(silence.name)}: " if silence.name else ""
        told = {"transport": self.name, "machine": machine, "name": silence.name or None, "told": silence.told}
        facts = Facts("unanswered", name=silence.name, why=silence.told, reason=silence.reason, arch=arch)
        verdict = verdictFields(facts)
        _log.info("{machine} is not answered: {about}{told}", event="unanswered", about=about, **told, **verdict)

    # Who fetches what he was told.

    def _fetching(self, request: Request) -> None:
        """Note that a file is asked for, by any transport."""
        if not len(self._memory.awaited):
            return
        try:
            name = names.text(names.parts(request.name))
        except Refused:
            return
        found = self._memory.awaited.fetched(request.peer[0], name)
        if found is None:
            return
        seconds = self._site.reactor.seconds() - found.since
        form = "{machine}: {name} is fetched after {seconds:.1f} s by {peer}"
        told = {"transport": self.name, "machine": found.machine, "name": found.name}
        _log.info(form, event="fetching", seconds=seconds, peer=request.peer[0], **told)

    def _watchFetches(self) -> None:
        deadline = self._memory.awaited.deadline()
        if deadline is not None and self._watching is None:
            delay = max(0.0, deadline - self._site.reactor.seconds())
            self._watching = self._site.reactor.callLater(delay, self._checkFetches)

    def _checkFetches(self) -> None:
        self._watching = None
        for each in self._memory.awaited.expired(self._site.reactor.seconds(), MOST_TOLD):
            verdict = verdictFields(self._unfetched(each))
            _log.warn(
                "{machine}: was told {name}, and has never fetched it",
                event="unfetched",
                transport=self.name,
                machine=each.machine,
                name=each.name,
                why=verdict["cure"],
                **verdict,
            )
        self._watchFetches()

    def _unfetched(self, told: Awaited) -> Facts:
        """Return what is known of a machine that has not fetched what it was told."""
        now, memory = self._site.reactor.seconds(), self._memory
        proxy, server = memory.rivals.last(now), memory.servers.last(now)
        form = DIRECT if told.form == ASK else ASK
        return Facts("unfetched", name=told.name, server=proxy or server or "", proxy=proxy is not None, form=form)

    # Other servers.

    def _hearServer(self, datagram: bytes, peer: Peer) -> None:
        found = rival(dhcp.parse(datagram), peer[0], self._own, self.options.port67)
        if found is None:
            return
        now = self._site.reactor.seconds()
        told = names.printable(found.told)
        if found.proxy and self._memory.rivals.begin(found.host, now, TELL_AGAIN):
            form = "{transport}: {server} answers PXE clients too{what}"
            what = f", {told}" if told else ""
            _log.warn(form, event="rival", transport=self.name, server=found.host, what=what)
        elif not found.proxy and self._memory.servers.begin(found.host, now, TELL_AGAIN):
            form = "{transport}: the DHCP server {server} says {what}, which machines take in the place of ours"
            _log.warn(form, event="overruled", transport=self.name, server=found.host, what=told)


def _tookTooLong(result: object, seconds: float) -> Silence:
    return Silence(MISSING, f"its file was not found within {seconds:g} s")


def _architecture(request: BootRequest) -> str:
    """Return the word for the architecture of a machine."""
    return pxe.architectureName(request.machine.architectures[0])
