"""
Counters for Prometheus, fed by the events that all transports log, and gauges that are read when they are asked for.

Labels are bounded: the names of transports, words of our own, TFTP's error codes; never a file name or an address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from twisted.logger import ILogObserver, LogEvent
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from castd.outcomes import MEANING

#: Names of transports told apart, over all reloads; beyond, all others are one.
MOST = 256
OTHER = "other"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@implementer(ILogObserver)
class Counters:
    """
    Counts events.

    @ivar registry: what is shown.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._names: set[str] = set()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"castd_{name}", about, labels, registry=self.registry)

        self._received = counter("received", "Transfers that have ended.", "transport", "outcome", "write")
        self._octets = counter("octets", "Octets of files sent or received, repetitions included.", "transport")
        self._blocks = counter("blocks", "Blocks sent or received, repetitions included.", "transport")
        self._repeats = counter("repeats", "Blocks that were sent again.", "transport")
        self._full = counter("full_sockets", "Times that a socket took no more.", "transport")
        self._refused = counter("refused", "Requests refused, by the code of TFTP's ERROR.", "transport", "code")
        self._crowded = counter("crowded", "Requests not answered since a limit was reached.", "transport")
        self._declined = counter("declined", "Requests that a transport left to the next one.", "transport")
        self._groups = counter("groups", "Groups opened.", "transport")
        self._lost = counter("masters_lost", "Turns that a master lost by falling silent.", "transport")
        self._moved = counter("moved_to_unicast", "Receivers of groups that hear no multicast.", "transport")
        self._malformed = counter("malformed", "Datagrams that say nothing.")
        self._faults = counter("faults", "Faults of castd or of a plugin; each is in the log.")
        self._reloads = counter("reloads", "Reloads of the service file.", "ok")
        self._seconds = Histogram(
            "castd_seconds", "Duration of complete transfers.", ("transport",), registry=self.registry, buckets=SECONDS
        )
        ProcessCollector(registry=self.registry)
        self._counting: dict[str, Callable[[LogEvent, str], object]] = {
            "received": self._countReceived,
            "closed": self._countClosed,
            "refused": self._countRefused,
            "crowded": lambda event, name: self._crowded.labels(name).inc(),
            "declined": lambda event, name: self._declined.labels(name).inc(),
            "opened": lambda event, name: self._groups.labels(name).inc(),
            "moved": lambda event, name: self._moved.labels(name).inc(),
            "malformed": lambda event, name: self._malformed.inc(),
            "fault": lambda event, name: self._faults.inc(),
            "reloaded": lambda event, name: self._reloads.labels("true").inc(),
            # One of several lines of the same refusal.
            "refused-reload": lambda event, name: self._reloads.labels("false").inc(event.get("nth") == 1),
        }

    def __call__(self, event: LogEvent) -> None:
        count = self._counting.get(event.get("event", ""))
        if count is not None:
            count(event, self.name(event.get("transport", OTHER)))

    def name(self, transport: object) -> str:
        """-> the label of a transport."""
        if transport not in self._names:
            if not isinstance(transport, str) or len(self._names) >= MOST:
                return OTHER
            self._names.add(transport)
        return str(transport)

    def _countReceived(self, event: LogEvent, name: str) -> None:
        outcome = event.get("outcome", OTHER)
        wrote = "true" if event.get("write") else "false"
        self._received.labels(name, outcome if outcome in MEANING else OTHER, wrote).inc()
        if outcome == "done":
            self._seconds.labels(name).observe(event.get("seconds", 0.0))
        if not event.get("group"):
            # What a group has sent is counted when it closes: its receivers hear the same blocks.
            self._countSent(event, name)

    def _countClosed(self, event: LogEvent, name: str) -> None:
        self._countSent(event, name)
        self._lost.labels(name).inc(event.get("lost", 0))

    def _countSent(self, event: LogEvent, name: str) -> None:
        for counter, key in (
            (self._octets, "octets"),
            (self._blocks, "blocks"),
            (self._repeats, "repeats"),
            (self._full, "full"),
        ):
            counter.labels(name).inc(max(0, event.get(key) or 0))

    def _countRefused(self, event: LogEvent, name: str) -> None:
        code = event.get("code")
        self._refused.labels(name, str(code) if isinstance(code, int) and 0 <= code <= 8 else OTHER).inc()

    def page(self) -> bytes:
        """-> what a scrape is answered with."""
        return bytes(generate_latest(self.registry))


class Gauges(Collector):
    """
    What is read when it is asked for.
    """

    def __init__(
        self, figures: Counters, transports: Callable[[], Iterable[Any]], held: Callable[[], Mapping[str, int]]
    ) -> None:
        """
        @param transports: -> each L{ICastTransport<castd.interfaces.ICastTransport>} that listens.
        @param held: -> what the server keeps, L{castd.observe.status.held}.
        """
        self._figures = figures
        self._transports = transports
        self._held = held
        figures.registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """As C{prometheus_client} asks for it."""
        casts = GaugeMetricFamily("castd_casts", "Transfers and groups under way.", labels=["transport", "kind"])
        receivers = GaugeMetricFamily("castd_receivers", "Receivers, and senders of uploads.", labels=["transport"])
        members: dict[str, int] = {}
        found: dict[tuple[str, str], int] = {}
        for transport in self._transports():
            for cast in transport.casts():
                name = self._figures.name(getattr(cast, "name", OTHER))
                kind, here = kindOf(cast)
                found[name, kind] = found.get((name, kind), 0) + 1
                members[name] = members.get(name, 0) + here
        for labels, number in found.items():
            casts.add_metric(list(labels), number)
        for name, number in members.items():
            receivers.add_metric([name], number)
        kept = self._held()
        timers = GaugeMetricFamily("castd_alarms", "Alarms of casts, set or not yet forgotten.", kept["alarms"])
        calls = GaugeMetricFamily("castd_delayed_calls", "What the reactor was asked to do later.", kept["calls"])
        ports = GaugeMetricFamily("castd_kept_ports", "Ports that wait for the next transfer.", kept["ports"])
        return iter((casts, receivers, timers, calls, ports))


def kindOf(cast: Any) -> tuple[str, int]:
    """-> C{group}, C{unicast} or C{upload}, and how many receivers it has."""
    receivers = getattr(cast, "receivers", None)
    if receivers is None:
        return "upload", 1
    wire = getattr(cast, "wire", None)
    return ("unicast" if getattr(wire, "group", None) is None else "group"), len(receivers)


class MetricsSite(Site):
    """The server of the page.  That it is read every few seconds is no news, so it has no log."""

    noisy = False

    def log(self, request: object) -> None:
        """Not at all."""


class MetricsPage(Resource):
    """C{/metrics}, C{/healthz} (the reactor runs) and C{/readyz} (requests are answered)."""

    def __init__(self, figures: Counters, unready: Callable[[], str | None]) -> None:
        """@param unready: -> why requests are not answered now, L{None}: they are."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.putChild(b"metrics", _Answer(lambda: (200, figures.page()), CONTENT_TYPE_LATEST))
        self.putChild(b"healthz", _Answer(lambda: (200, b"alive\n")))
        self.putChild(b"readyz", _Answer(lambda: _ready(unready())))


def _ready(why: str | None) -> tuple[int, bytes]:
    return (200, b"ready\n") if why is None else (503, f"{why}\n".encode())


class _Answer(Resource):
    """One page of text."""

    isLeaf = True

    def __init__(self, answer: Callable[[], tuple[int, bytes]], kind: str = "text/plain; charset=utf-8") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answer = answer
        self._kind = kind

    def render_GET(self, request: Any) -> bytes:
        status, body = self._answer()
        request.setResponseCode(status)
        request.setHeader("content-type", self._kind)
        return body
