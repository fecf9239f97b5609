"""Measures each layer that a transfer passes through by itself, with pyperf: C{python benchmarks/layers.py -o FILE}.

It takes all of pyperf's options, and what it writes is compared by C{pyperf compare_to}. C{layerbounds.py} runs it and
says which layer has become dearer than it may be. Nothing is sent: no socket, no disk but for the look-up.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher

from castd import native
from castd.cast.events import RequestBlocks
from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.dialects.tftp import Dialect, Options, Wire
from castd.files.root import Root
from castd.observe.format import asJSON, asText
from castd.observe.metrics import Counters
from castd.options import Limits
from castd.packets.options import AgreedOptions, OptionLimits, negotiate
from castd.request import Local, Peer
from castd.server.admission import Admission
from castd.server.blockcache import BlockCache
from castd.server.listener import Listener
from castd.testing import BytesContent, Network, RecordingClient, memorySite

RRQ = b"\0\1images/vmlinuz\0octet\0blksize\x001468\0tsize\x000\0"
#: The client, where it was asked, and blocks: of the usual size, and small ones, which cost nothing to lay out.
CLIENT, SERVER = ("10.0.0.9", 2000), ("10.0.0.1", 69)
LOCAL = Local(SERVER[0], SERVER[1], 1)
USUAL, SMALL, BLOCKS = 1468, 8, 60_000
#: ACKs until the time in which the receiver answers is known.
LEARNT = 128
PLENTY = Limits.model_validate(
    {"casts": 100_000, "receivers": 100_000, "per-peer": 100_000, "new-per-peer": "1000000/s"}
)


def reference() -> None:
    """Go a thousand times around a loop: the fixed amount of Python that all layers are compared with."""
    total = 0
    for number in range(1000):
        total += number * number


def parsed() -> Callable[[], object]:
    """A read request with two options is parsed."""
    dialect = Dialect(Options(port=69))
    return lambda: dialect.request(RRQ, CLIENT, LOCAL)


def negotiated() -> Callable[[], object]:
    """Its options are agreed on, as those of many machines before it."""
    request = Dialect(Options(port=69)).request(RRQ, CLIENT, LOCAL)
    assert request is not None
    bounds = OptionLimits()
    return lambda: negotiate(request, bounds, 16384)


def admitted() -> Callable[[], object]:
    """The limits are asked about a new receiver."""
    admission, clock = Admission(PLENTY), iter(range(1 << 62))
    return lambda: admission.crowded(CLIENT, next(clock) * 0.01)


def found() -> Callable[[], object]:
    """A file is opened by its name, and closed."""
    folder = Path(tempfile.mkdtemp(prefix="castd-layers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "images").mkdir()
    (folder / "images" / "vmlinuz").write_bytes(bytes(16384))
    root = Root(str(folder))
    return lambda: os.close(root.openFile((b"images", b"vmlinuz")))


def laidOut(compiled: bool = False) -> Callable[[], object]:
    """A chunk of 128 blocks, as for windows, is laid out as datagrams, where the cache is full of others."""
    content = BytesContent("f", bytes(USUAL * 1000))
    wire = Wire(AgreedOptions(blksize=USUAL, windowsize=16), content.size, RetransmitPolicy())
    blockCache, numbers = BlockCache(1), cycle((0, 128))
    blockCache.compiled = compiled
    return lambda: blockCache.chunk(wire, content, next(numbers))


class Mute:
    """The port of a cast that sends nothing."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[object], None]:
        """@return: a function that drops what it is given."""
        return lambda image: None


class Serving:
    """A server in memory whose casts send nothing once they have begun."""

    def __init__(self) -> None:
        self._network = Network(capture=False)
        site = memorySite(self._network, {"f": bytes(SMALL * BLOCKS)}, limits=PLENTY)
        options = Options(port=69)
        self._listener = Listener(site, "tftp", options, Dialect(options))
        site.ports.listen(69, self._listener)

    def begin(self) -> Any:
        """@return: a cast whose one receiver has its OACK; any other is over."""
        for cast in [*self._listener.casts()]:
            cast.end("aborted")
        client = RecordingClient(self._network.host(CLIENT[0]), CLIENT[1])
        client.send(b"\0\1f\0octet\0blksize\x00" + str(SMALL).encode() + b"\0", SERVER)
        self._network.advance(0.01)
        client.transport.stopListening()
        (cast,) = self._listener.casts()
        cast.transport = Mute(cast.transport)
        return cast


def through(cast: Any, acks: list[bytes]) -> float:
    """
    @return: seconds that a cast needs for these ACKs.
    """
    began = time.perf_counter()
    for ack in acks:
        cast.datagramReceived(ack, CLIENT)
    return time.perf_counter() - began


def steps(loops: int) -> float:
    """So many blocks, laid out before, are acknowledged by a receiver that loses nothing.

    @return: seconds.
    """
    took, serving, left = 0.0, Serving(), loops
    acks = [b"\0\4" + number.to_bytes(2, "big") for number in range(BLOCKS)]
    through(serving.begin(), acks[:-1])  # its chunks stay, and nobody lays out any more
    while left:
        cast, part = serving.begin(), min(left, BLOCKS - LEARNT - 1)
        through(cast, acks[:LEARNT])
        took += through(cast, acks[LEARNT : LEARNT + part])
        assert cast.progress()[0] >= part + LEARNT, "the receiver was not served"
        left -= part
    return took


def groupSteps(loops: int) -> float:
    """The master of a group acknowledges so many blocks, and the cast says what is due.

    @return: seconds.
    """
    cast = Turn(RetransmitPolicy(), loops + 2)
    for number in range(16):
        cast.join((f"10.0.1.{number}", 2000), 0.0)
    master = ("10.0.1.0", 2000)
    while cast.poll(0.0) is not None:
        pass
    began = time.perf_counter()
    for number in range(loops):
        cast.hear(master, RequestBlocks((range(number, number + 1),)), number * 1e-5)
        while cast.poll(number * 1e-5) is not None:
            pass
    return time.perf_counter() - began


def event() -> dict[str, Any]:
    """@return: the event that a small transfer ends with, as it is logged."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    network = Network(capture=False)
    site = memorySite(network, {"f": b"x" * 100})
    options = Options(port=69)
    site.ports.listen(69, Listener(site, "tftp", options, Dialect(options)))
    client = RecordingClient(network.host(CLIENT[0]), CLIENT[1])
    client.send(b"\0\1f\0octet\0", SERVER)
    network.advance(0.01)
    client.send(b"\0\4\0\1", client.expect(seconds=1).source)
    network.advance(1)
    globalLogPublisher.removeObserver(events.append)
    return next(each for each in events if each.get("event") == "received")


def told(observer: Callable[[Any], object]) -> Callable[[], object]:
    """The event of a transfer becomes a line, or is counted in the metrics."""
    ended = event()
    return lambda: observer(ended)


#: Layers whose function is called for each; by name.
CALLED: dict[str, Callable[[], Callable[[], object]]] = {
    "parse a request": parsed,
    "admission": admitted,
    "look-up": found,
    "negotiate": negotiated,
    "lay out a chunk": laidOut,
    "lay out a chunk natively": lambda: laidOut(True),
    "an event as text": lambda: told(asText),
    "an event as JSON": lambda: told(asJSON),
    "an event is counted": lambda: told(Counters()),
}
#: Those of them that only a castd with its native loop has.
ONLY_NATIVE = frozenset({"lay out a chunk natively"})
#: Those that are given a number of times.
TIMED: dict[str, Callable[[int], float]] = {"a fast path step": steps, "a group step": groupSteps}
REFERENCE = "reference"


def main() -> None:
    """Measure, as pyperf is told by the command line."""
    import pyperf  # of this alone: the layers themselves can be tried without it

    runner = pyperf.Runner(processes=3, values=5, warmups=1, min_time=0.05)
    runner.metadata["description"] = "layers of castd"
    runner.bench_func(REFERENCE, reference)
    for name, prepare in CALLED.items():
        if native.NATIVE or name not in ONLY_NATIVE:
            runner.bench_func(name, prepare())
    for name, timed in TIMED.items():
        runner.bench_time_func(name, timed)


if __name__ == "__main__":
    main()
