"""
Provides metrics for Prometheus: counters that log events increment, and gauges that a scrape reads.

L{EVENT_METRICS} and L{GAUGES} are the one place where a metric is declared; the page C{/metrics} and the table of
C{docs/metrics.md} are generated from them.

Labels are bounded: names of transports, words of castd, TFTP's error codes; never a file name or an address.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from castd.files.threads import RunInThread
from castd.interfaces import ICastTransport, ILiveTransfer, IPortService, ISite
from castd.observe.report import Shared, versions
from castd.observe.status import KINDS, OTHER, asked, resources, serviceCounts, underWay
from castd.observe.web import Answer, TextResource
from castd.outcomes import DONE, DROPPED, MEANING
from castd.packets.pxe import ARCHITECTURES
from castd.slices import Slices

#: The most transports that have a label of their own, over all reloads; all others are L{OTHER}.
MAX_TRANSPORTS = 256

#: Reads from an event the amount that it adds to a metric; L{None}: it adds nothing.
Amount: TypeAlias = Callable[[LogEvent], float | None]


@dataclass(frozen=True, slots=True)
class EventMetric:
    """
    A counter or a histogram that log events increment.

    @ivar name: for a counter without C{_total}, which Prometheus appends.
    @ivar help: one sentence, for the page and for C{docs/metrics.md}.
    @ivar labels: C{transport}, or names of L{LABELS}.
    @ivar events: by the name of an event, the amount that it adds.
    @ivar buckets: the upper bounds of a histogram; C{()}: the metric is a counter.
    @ivar service: the kind of service that it counts for; C{""}: it counts for transports.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    events: Mapping[str, Amount]
    buckets: tuple[float, ...] = ()
    service: str = ""

    @property
    def kind(self) -> str:
        """The type, as Prometheus calls it."""
        return "histogram" if self.buckets else "counter"


@dataclass(frozen=True, slots=True)
class GaugeMetric:
    """
    A gauge, or a counter, that is read when a scrape asks for it.

    @ivar name, help, labels: as of L{EventMetric}.
    @ivar read: -> the value for each combination of label values, in the order of C{labels}.
    @ivar kind: C{gauge} or C{counter}, as Prometheus calls it.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[Readings], Mapping[tuple[str, ...], float]]
    kind: str = "gauge"


def _one(event: LogEvent) -> float:
    return 1


def _field(name: str) -> Amount:
    """Return a function that reads a number from this field of an event; 0 if it is absent or negative."""
    return lambda event: max(0, event.get(name) or 0)


def _sent(name: str) -> dict[str, Amount]:
    """
    Return the events that report sent data. A group reports it when it closes, since its receivers share the blocks.
    """
    field = _field(name)
    return {"received": lambda event: None if event.get("group") else field(event), "closed": field}


def _word(value: object, known: Iterable[str]) -> str:
    """Return a word if it is one of those that are known."""
    return value if isinstance(value, str) and value in known else OTHER


#: Kinds of requests that a proxydhcp hears, and why it does not answer one.
PXE_KINDS = ("discover", "request", "item")
PXE_REASONS = ("class", "network", "access", "rule", "missing", "limit", "foreign")


class Label(NamedTuple):
    """
    A label of metrics.

    @ivar known: the values that each metric with this label has from the start, at 0.
    @ivar read: -> the value, from an event.
    """

    known: tuple[str, ...]
    read: Callable[[LogEvent], str]


def _words(field: str, known: Iterable[str]) -> Label:
    """Return a label whose values are these words, as a field of the event has them, and L{OTHER}."""
    words = tuple(known)
    return Label(words, lambda event: _word(event.get(field), words))


#: The labels that events give a value; L{Counters} bounds C{transport} itself.
LABELS: dict[str, Label] = {
    "outcome": _words("outcome", MEANING),
    "write": Label(("false", "true"), lambda event: "true" if event.get("write") else "false"),
    "code": Label(
        tuple(map(str, range(9))),
        lambda event: str(code) if isinstance(code := event.get("code"), int) and 0 <= code <= 8 else OTHER,
    ),
    "kind": _words("kind", PXE_KINDS),
    "arch": _words("arch", dict.fromkeys(ARCHITECTURES.values())),
    "reason": _words("reason", PXE_REASONS),
    "ok": Label(("true", "false"), lambda event: "true" if event["event"] == "reloaded" else "false"),
}

#: Every metric that events increment, in the order of the page.
EVENT_METRICS = (
    EventMetric("castd_received", "Transfers that have ended.", ("transport", "outcome", "write"), {"received": _one}),
    EventMetric(
        "castd_octets", "Octets of files sent or received, repetitions included.", ("transport",), _sent("octets")
    ),
    EventMetric("castd_blocks", "Blocks sent or received, repetitions included.", ("transport",), _sent("blocks")),
    EventMetric("castd_repeats", "Blocks that were sent again.", ("transport",), _sent("repeats")),
    EventMetric("castd_full_sockets", "Times that a socket took no more.", ("transport",), _sent("full")),
    EventMetric(
        "castd_refused",
        "Requests refused, by the code of TFTP's ERROR.",
        ("transport", "code"),
        {"refused": lambda event: 0.0 if event.get("limit") else 1.0},
    ),
    EventMetric(
        "castd_crowded",
        "Requests not answered since a limit was reached.",
        ("transport",),
        # Of a flood there is one event a second.  Who is refused, and not told so, has no answer either.
        {
            "crowded": lambda event: event.get("requests", 1),
            "refused": lambda event: 1.0 if event.get("limit") else 0.0,
        },
    ),
    EventMetric(
        "castd_declined", "Requests that a transport left to the next one.", ("transport",), {"declined": _one}
    ),
    EventMetric("castd_groups", "Groups opened.", ("transport",), {"opened": _one}),
    EventMetric(
        "castd_masters_lost",
        "Turns that a master lost by falling silent.",
        ("transport",),
        {"closed": _field("lost")},
    ),
    EventMetric(
        "castd_oversize", "Receivers that no block of their size seems to reach.", ("transport",), {"oversize": _one}
    ),
    EventMetric(
        "castd_moved_to_unicast", "Receivers of groups that hear no multicast.", ("transport",), {"moved": _one}
    ),
    EventMetric(
        "castd_pxe_requests",
        "DHCP packets that a proxydhcp has heard.",
        ("transport", "kind"),
        {"pxe-request": _one},
        service="proxydhcp",
    ),
    EventMetric(
        "castd_pxe_answers",
        "Machines that were told what to boot.",
        ("transport", "kind", "arch"),
        {"offered": _one, "acknowledged": _one},
        service="proxydhcp",
    ),
    EventMetric(
        "castd_pxe_silent",
        "DHCP packets that a proxydhcp has not answered.",
        ("transport", "reason"),
        {"pxe-silent": _one},
        service="proxydhcp",
    ),
    EventMetric(
        "castd_pxe_unfetched",
        "Machines that were told what to boot, and have not fetched it.",
        ("transport",),
        {"unfetched": _one},
        service="proxydhcp",
    ),
    EventMetric("castd_malformed", "Datagrams that cannot be read.", (), {"malformed": _one}),
    EventMetric("castd_faults", "Faults of castd or of a plugin; each is in the log.", (), {"fault": _one}),
    EventMetric(
        "castd_reloads",
        "Reloads of the service file.",
        ("ok",),
        # A refused reload logs a line for each reason; only the first line counts.
        {"reloaded": _one, "refused-reload": lambda event: event.get("nth") == 1},
    ),
    EventMetric(
        "castd_seconds",
        "Duration of complete transfers.",
        ("transport",),
        {"received": lambda event: event.get("seconds", 0.0) if event.get("outcome") == DONE else None},
        buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    ),
)


def _buildInfo(readings: Readings) -> dict[tuple[str, ...], float]:
    """Return 1, for the versions of what runs."""
    found = versions(readings.site.reactor)
    return {(found["version"], found["python"], found["twisted"], found["reactor"]): 1}


def _profileHits(readings: Readings) -> dict[tuple[str, ...], float]:
    """Return how many requests each profile was applied to; 0 for those in force that were not."""
    site = readings.site
    known = [] if site.profiles is None else [each.options.name for each in site.profiles.profiles]
    return {(name,): float(site.profileHits[name]) for name in (*known, *site.profileHits)}


#: Every metric that a scrape reads, in the order of the page.
GAUGES = (
    GaugeMetric(
        "castd_build_info",
        "Always 1; the versions of what runs, and the class of its event loop.",
        ("version", "python", "twisted", "reactor"),
        _buildInfo,
    ),
    GaugeMetric(
        "castd_casts", "Transfers and groups under way.", ("transport", "kind"), lambda readings: readings.transfers
    ),
    GaugeMetric(
        "castd_receivers", "Receivers, and senders of uploads.", ("transport",), lambda readings: readings.receivers
    ),
    GaugeMetric(
        "castd_pxe_rivals",
        "Other servers that were heard to tell machines what to boot, in the last hour.",
        ("transport",),
        lambda readings: readings.rivals,
    ),
    GaugeMetric(
        "castd_profiles",
        "Requests that a profile of clients was applied to.",
        ("profile",),
        _profileHits,
        "counter",
    ),
    GaugeMetric(
        "castd_dropped",
        "Datagrams at request ports that were dropped without a word, by reason.",
        ("reason",),
        lambda readings: {(reason,): float(readings.site.dropped[reason]) for reason in DROPPED},
        "counter",
    ),
    GaugeMetric(
        "castd_alarms",
        "Timers of casts, uploads and request ports, set or not yet forgotten.",
        (),
        lambda readings: {(): readings.resources["alarms"]},
    ),
    GaugeMetric(
        "castd_delayed_calls",
        "What the reactor was asked to do later.",
        (),
        lambda readings: {(): readings.resources["calls"]},
    ),
    GaugeMetric(
        "castd_kept_ports",
        "Ports that wait for the next transfer.",
        (),
        lambda readings: {(): readings.resources["ports"]},
    ),
)


#: Makes the metric with these label values present.  -> what adds a number to it.
_MakeAdder: TypeAlias = Callable[[Sequence[str]], Callable[[float], object]]


class CountedEntry(NamedTuple):
    """
    A transport or a service of the service file, which has metrics from the start if castd has any for its kind.

    @ivar service: the kind of service that it is; C{""}: it is a transport.
    """

    name: str
    service: str = ""


@dataclass(frozen=True, slots=True)
class _EventCount:
    """
    The increment of one metric by one event.

    @ivar labels: -> the value of each label, from the label of the transport and the event.
    @ivar adders: what adds a number, by these values: C{prometheus_client} takes longer to find it than to add.
    @ivar skipsZero: adding 0 changes nothing.
    """

    labels: Callable[[str, LogEvent], tuple[str, ...]]
    amount: Amount
    makeAdder: _MakeAdder
    skipsZero: bool
    adders: dict[tuple[str, ...], Callable[[float], object]]

    def count(self, transport: str, event: LogEvent) -> None:
        """Add what this event adds, if anything."""
        if (number := self.amount(event)) is None:
            return
        values = self.labels(transport, event)
        add = self.adders.get(values)
        if add is None:
            add = self.adders[values] = self.makeAdder(values)
        if number or not self.skipsZero:
            add(number)


def _readLabels(names: tuple[str, ...]) -> Callable[[str, LogEvent], tuple[str, ...]]:
    """Return a function that reads the values of these labels."""
    if names == ("transport",):
        return lambda transport, _: (transport,)
    readers = tuple(None if name == "transport" else LABELS[name].read for name in names)
    return lambda transport, event: tuple(transport if read is None else read(event) for read in readers)


def _register(metric: EventMetric, registry: CollectorRegistry) -> _MakeAdder:
    """Register a metric with C{prometheus_client}."""
    if metric.buckets:
        histogram = Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
        return lambda values: histogram.labels(*values).observe
    counter = Counter(metric.name, metric.help, metric.labels, registry=registry)
    return lambda values: (counter.labels(*values) if values else counter).inc


def _makePresent(metric: EventMetric, make: _MakeAdder, transport: str) -> None:
    """Make a metric present with all values of its labels that are known, for this transport."""
    for values in product(*((transport,) if each == "transport" else LABELS[each].known for each in metric.labels)):
        make(values)


class TransportLabels:
    """
    The labels of the transports and services that the page shows, the same for counters and gauges.

    @ivar entries: -> what is in the service file that is in force.
    """

    def __init__(self, entries: Callable[[], Iterable[CountedEntry]]) -> None:
        self.entries = entries
        self._known: set[str] = set()

    def label(self, name: object) -> str:
        """Return the label of a transport: its name, or L{OTHER} after the first L{MAX_TRANSPORTS}."""
        if name not in self._known:
            if not isinstance(name, str) or len(self._known) >= MAX_TRANSPORTS:
                return OTHER
            self._known.add(name)
        return str(name)


@implementer(ILogObserver)
class Counters:
    """
    Counts log events in the metrics of L{EVENT_METRICS}.

    @ivar registry: the metrics of the page.
    @ivar labels: the labels of transports.
    """

    def __init__(
        self, entries: Callable[[], Iterable[CountedEntry]] = tuple, catchUp: Callable[[], object] = lambda: None
    ) -> None:
        """
        @param entries: -> what is in the service file that is in force.
        @param catchUp: called before the page is made: passes the events on that are kept, see L{castd.observe.batch}.
        """
        self._catchUp = catchUp
        self._gauges: list[Gauges] = []
        self.registry = CollectorRegistry()
        self.labels = TransportLabels(entries)
        self._present: set[CountedEntry] = set()
        self._counting: dict[str, list[_EventCount]] = {}
        self._makers: list[tuple[EventMetric, _MakeAdder]] = []
        for metric in EVENT_METRICS:
            make = _register(metric, self.registry)
            self._makers.append((metric, make))
            adders: dict[tuple[str, ...], Callable[[float], object]] = {}
            labels = _readLabels(metric.labels)
            for event, amount in metric.events.items():
                count = _EventCount(labels, amount, make, not metric.buckets, adders)
                self._counting.setdefault(event, []).append(count)
            if "transport" not in metric.labels:
                _makePresent(metric, make, "")
        ProcessCollector(registry=self.registry)

    def __call__(self, event: LogEvent) -> None:
        counting = self._counting.get(event.get("event", ""))
        if counting is None:
            return
        transport = self.labels.label(event.get("transport", OTHER))
        for each in counting:
            each.count(transport, event)

    def register(self, gauges: Gauges) -> None:
        """Show gauges on the page, too."""
        self._gauges.append(gauges)
        self.registry.register(gauges)

    def prepare(self) -> Iterator[None]:
        """
        Return the steps that bring the page up to date, as there may be thousands of transfers, and of combinations of
        labels; what is in the service file is on the page before its first event.
        """
        self._catchUp()
        for entry in self.labels.entries():
            if entry not in self._present:
                self._present.add(entry)
                label = self.labels.label(entry.name)
                for metric, make in self._makers:
                    if "transport" in metric.labels and metric.service == entry.service:
                        _makePresent(metric, make, label)
                        yield None
        for each in self._gauges:
            yield from each.read()

    def text(self) -> bytes:
        """
        Return the page as of the last L{prepare}.  A thread may call this beside the reactor's: C{prometheus_client}
        locks what it counts, and the gauges were read before.
        """
        return bytes(generate_latest(self.registry))


@dataclass(frozen=True, slots=True)
class Readings:
    """
    The state that gauges are read from.

    @ivar site: the site of the server.
    @ivar transfers: how many transfers are under way, by transport and kind.
    @ivar receivers: how many receivers there are, by transport.
    @ivar rivals: other servers that a service has heard, by transport.
    @ivar resources: the counts of L{castd.observe.status.resources}.
    """

    site: ISite
    transfers: Mapping[tuple[str, ...], int]
    receivers: Mapping[tuple[str, ...], int]
    rivals: Mapping[tuple[str, ...], int]
    resources: Mapping[str, int]


class Gauges(Collector):
    """
    Reads the metrics of L{GAUGES} when a scrape asks for them, and shows what it has read.
    """

    def __init__(
        self,
        labels: TransportLabels,
        transports: Callable[[], Iterable[ICastTransport]],
        site: ISite,
        services: Callable[[], Iterable[tuple[str, IPortService]]] = tuple,
    ) -> None:
        """
        @param labels: those of the counters that show the gauges on their page, see L{Counters.register}.
        @param transports: -> each transport that listens.
        @param services: -> each service with its name in the service file.
        """
        self._services = services
        self._labels = labels
        self._transports = transports
        self._site = site
        self._families: list[GaugeMetricFamily | CounterMetricFamily] = []

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Return what was read last, for C{prometheus_client}."""
        return self._families

    def read(self) -> Iterator[None]:
        """Return the steps that read every gauge: the transfers of one instant, and each with its receivers later."""
        held = resources(self._site)
        present = [self._labels.label(each.name) for each in self._labels.entries() if not each.service]
        transfers = collections.Counter[tuple[str, ...]](dict.fromkeys(product(present, KINDS), 0))
        receivers = collections.Counter[tuple[str, ...]]({(each,): 0 for each in present})
        for each in [each for transport in self._transports() for each in underWay(transport)]:
            name, kind, here = _sortOf(each)
            label = self._labels.label(name)
            transfers[label, kind if kind in KINDS else OTHER] += 1
            receivers[label,] += here
            yield None
        rivals: dict[tuple[str, ...], int] = {
            (self._labels.label(name),): counts["rivals"]
            for name, each in self._services()
            if "rivals" in (counts := serviceCounts(each))
        }
        readings = Readings(self._site, transfers, receivers, rivals, held)
        self._families = [_family(gauge, readings) for gauge in GAUGES]


def _family(gauge: GaugeMetric, readings: Readings) -> GaugeMetricFamily | CounterMetricFamily:
    """Return a gauge with its values, as C{prometheus_client} shows it."""
    made = CounterMetricFamily if gauge.kind == "counter" else GaugeMetricFamily
    family = made(gauge.name, gauge.help, labels=gauge.labels)
    for values, number in gauge.read(readings).items():
        family.add_metric(values, number)
    return family


def _sortOf(transfer: object) -> tuple[str, str, int]:
    """Return the transport, the kind and the number of receivers of what is under way, as far as they are known."""
    # A plugin's transport may have objects under way that do not provide ILiveTransfer.
    unknown = OTHER, OTHER, 1
    if not ILiveTransfer.providedBy(transfer):
        return unknown
    return asked(lambda: (transfer.name, transfer.kind, len(transfer.liveReceivers())), unknown)


def scraper(
    reactor: IReactorTime, counters: Counters, slices: Slices, thread: RunInThread
) -> Callable[[], Deferred[bytes]]:
    """
    Return a function that answers scrapes beside the transfers: the state is read in slices, and the text made in a
    thread, which takes half a second for the most transports there may be.  Those who ask at the same time share one.

    @param thread: makes the text.
    """
    return Shared(reactor, lambda: slices.run(counters.prepare()).addCallback(lambda _: thread(counters.text)), 0.0).get


class MetricsPage(Resource):
    """
    Answers C{/metrics}, C{/healthz} (the reactor runs) and C{/readyz} (requests are answered), and whatever else the
    address has.
    """

    def __init__(
        self,
        scrape: Callable[[], Deferred[bytes]],
        unready: Callable[[], Deferred[str | None]],
        others: Mapping[bytes, IResource] = MappingProxyType({}),
    ) -> None:
        """
        @param scrape: -> a Deferred of the metrics, see L{scraper}.
        @param unready: -> a Deferred of the reason why requests are not answered now; L{None}: they are answered.
        @param others: what else there is, by its path.
        """
        Resource.__init__(self)
        for path, resource in others.items():
            self.putChild(path, resource)
        self.putChild(b"metrics", TextResource(lambda: scrape().addCallback(_found), CONTENT_TYPE_LATEST))
        self.putChild(b"healthz", TextResource(lambda: succeed((200, b"alive\n"))))
        self.putChild(b"readyz", TextResource(lambda: unready().addCallback(_readiness)))


def _found(page: bytes) -> Answer:
    return 200, page


def _readiness(why: str | None) -> Answer:
    return (200, b"ready\n") if why is None else (503, f"{why}\n".encode())
