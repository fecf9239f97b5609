"""
Provides the test kit of castd: a network in memory with virtual time, for tests of castd's transports and of yours.

A test puts a transport on a virtual network and talks to it::

    network = Network(seed=7, loss=0.05)
    site = memorySite(network, files={"vmlinuz": pattern(100_000)})
    options = Options(port=69)
    site.ports.listen(options.port, Listener(site, "tftp", options, Dialect(options)))
    client = RecordingClient(network.host("10.0.0.9"))
    client.send(b"\\0\\1vmlinuz\\0octet\\0", ("10.0.0.1", 69))
    received = client.expect(seconds=5)

The kit opens no socket and reads no clock, and the seed determines every random number.
"""

from castd.testing.content import BytesContent, MemorySink, ReceivedFile, pattern
from castd.testing.hosts import Host
from castd.testing.network import Link, LossPredicate, Network, SentDatagram
from castd.testing.ports import VirtualPort
from castd.testing.recording import ReceivedDatagram, RecordingClient
from castd.testing.site import MemorySite, NoJitterRandom, memorySite
from castd.testing.timeline import LimitExceeded

__all__ = [
    "BytesContent",
    "Host",
    "LimitExceeded",
    "Link",
    "LossPredicate",
    "MemorySink",
    "MemorySite",
    "Network",
    "NoJitterRandom",
    "ReceivedDatagram",
    "ReceivedFile",
    "RecordingClient",
    "SentDatagram",
    "VirtualPort",
    "memorySite",
    "pattern",
]
