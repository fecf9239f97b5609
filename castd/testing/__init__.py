"""
The public test kit of castd: its own transports are tested with it, and yours can be.

A test puts a transport on a virtual network and talks to it::

    network = Network(seed=7, loss=0.05)
    site = memorySite(network, files={"vmlinuz": pattern(100_000)})
    options = Options(port=69)
    site.ports.listen(options.port, Listener(site, "tftp", options, Dialect(options)))
    client = RecordingClient(network.host("10.0.0.9"))
    client.send(b"\\0\\1vmlinuz\\0octet\\0", ("10.0.0.1", 69))
    received = client.expect(seconds=5)

Nothing in it opens a socket, reads a clock, or draws a number that the seed does not determine.
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
