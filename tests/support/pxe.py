"""
A server with a proxydhcp on a network in memory, made from a service file: what machines send it, and what it sends.

The recorded datagrams of C{tests/vectors/proxydhcp.json} are at hand under their ids.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from castd.config.plugin import collect
from castd.errors import ConfigError
from castd.packets import dhcp
from castd.packets.dhcp import DhcpPacket
from castd.proxydhcp.service import ProxyDhcp
from castd.request import Peer
from castd.service.service import Server, compose, read
from castd.testing import Host, Network, RecordingClient
from tests.support.log import observed
from tests.support.vectors import FOLDER

SERVER = "10.66.0.2"
MACHINE = "10.66.0.115"
ALL = ("255.255.255.255", 67)
NOWHERE = ("0.0.0.0", 68)
BOOT = (SERVER, 4011)
FILES = ("boot.ipxe", "undionly.kpxe", "snponly.efi", "bootcode.bin")
TFTP: dict[str, Any] = {"tftp": {"interface": SERVER}}
COLLECTED = collect()

_VECTORS = json.loads((FOLDER / "proxydhcp.json").read_text())
_HEX = {each["id"]: each for part in ("datagrams", "answers", "silence") for each in _VECTORS[part]}


def vector(id: str) -> bytes:
    """Return the octets of a datagram, an answer or a case of silence."""
    return bytes.fromhex(_HEX[id]["hex"])


def place(text: str) -> Peer:
    """Read C{10.66.0.115:68}."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def sourceOf(id: str) -> Peer:
    return place(_HEX[id]["from"])


def targetOf(id: str) -> Peer:
    return place(_HEX[id].get("to", "255.255.255.255:67"))


class Said(NamedTuple):
    """One datagram of the server."""

    source: Peer
    to: Peer
    datagram: bytes

    @property
    def packet(self) -> DhcpPacket:
        return dhcp.parse(self.datagram)

    @property
    def file(self) -> str:
        return self.packet.file.decode()


def discover(
    mac: str = "52:54:00:66:00:10",
    arch: int | None = 7,
    xid: bytes = b"\0\0\0\1",
    *,
    leave: Iterable[int] = (),
    giaddr: str = "0.0.0.0",
    **changes: Any,
) -> bytes:
    """
    A DHCPDISCOVER of UEFI firmware.

    @param leave: options to leave out.
    @param changes: C{options={60: ...}} replaces options, C{hlen=16} a field.
    """
    options = {53: b"\1", 57: b"\5\xc0", 60: b"PXEClient:Arch:%05d:UNDI:003000" % (arch or 0), 94: b"\1\3\0"}
    if arch is not None:
        options[93] = arch.to_bytes(2, "big")
    options |= changes.pop("options", {})
    for code in leave:
        options.pop(code, None)
    address = bytes.fromhex(mac.replace(":", ""))
    fields: dict[str, Any] = {"op": 1, "htype": 1, "hlen": len(address), "xid": xid, **changes}
    fields["chaddr"] = address.ljust(16, b"\0")
    return dhcp.build(DhcpPacket(**fields, giaddr=dhcp.IPv4Address(giaddr), options=options))


def ask(mac: str = "52:54:00:66:00:10", arch: int | None = 7, xid: bytes = b"\0\0\0\2", **changes: Any) -> bytes:
    """A DHCPREQUEST to port 4011."""
    options = {53: b"\3", **changes.pop("options", {})}
    return discover(mac, arch, xid, options=options, ciaddr=dhcp.IPv4Address(MACHINE), **changes)


class ProxyStage:
    """
    A server at 10.66.0.2 with the files of C{FILES}, and a machine at 10.66.0.115.

    @ivar events: what was logged within C{with}; at the end there must be no fault.
    """

    def __init__(
        self,
        folder: Path,
        *rules: dict[str, Any],
        transports: Mapping[str, Any] = TFTP,
        own: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
        addresses: Iterable[str] = (f"{SERVER}/24",),
        prepare: Any = None,
    ) -> None:
        """
        @param transports: those beside the proxydhcp.
        @param own: options of the proxydhcp beside its rules.
        @param more: other sections of the service file.
        @param prepare: called with the host before the server starts.
        """
        self.boot = folder / "boot"
        self.boot.mkdir(exist_ok=True)
        for name in FILES:
            (self.boot / name).write_bytes(name.encode())
        self.file = folder / "x.yaml"
        self.network = Network(latency=0.0002)
        self.host: Host = self.network.host(*addresses)
        if prepare is not None:
            prepare(self.host)
        self._more = dict(more or {})
        self._own, self._transports = dict(own or {}), dict(transports)
        self.write(*rules)
        self.server: Server = compose(read(self.file, COLLECTED), COLLECTED, self.host, self.host, random.Random(0))
        self.events: list[dict[str, Any]] = []
        self._seen = 0
        self._life = ExitStack()
        self.machine = RecordingClient(self.network.host(f"{MACHINE}/24"), 68)
        self.machine.port.setBroadcastAllowed(True)

    def write(self, *rules: dict[str, Any], **transports: Any) -> None:
        """Write the service file."""
        proxy = {"interface": SERVER, **self._own, "rules": list(rules)}
        service = {
            "castd": 1,
            "content": [{"directory": {"path": "boot"}}],
            "limits": {"drain": "0.5 s"},
            **self._more,
            "transports": {**self._transports, **transports, "proxydhcp": proxy},
        }
        self.file.write_text(yaml.safe_dump(service, sort_keys=False))

    def __enter__(self) -> Self:
        self._life.enter_context(observed(self.events.append))
        self.server.privilegedStartService()
        self.server.startService()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._life:
            stopped = self.server.stopService()
            self.network.advance(1)
            if kind is None:
                assert [each for each in self.events if "log_failure" in each or each.get("event") == "fault"] == []
                assert stopped.called

    @property
    def service(self) -> ProxyDhcp:
        """The proxydhcp that is in force."""
        return next(each for _, each in self.server.portServices if isinstance(each, ProxyDhcp))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of this kind."""
        return [event for event in self.events if event.get("event") == kind]

    def send(self, datagram: bytes, source: Peer = NOWHERE, to: Peer = ALL) -> None:
        """Send from any address, by the wire of the machine."""
        self.network.carry(datagram, source, to, self.machine.port)
        if self.network.capture:
            # It is not the server's, whatever its source says.
            self.network.capture.pop()

    def said(self) -> list[Said]:
        """What the server has sent since the last call."""
        capture = self.network.capture or []
        new, self._seen = capture[self._seen :], len(capture)
        return [Said(e.source, e.destination, e.datagram) for e in new if e.source[0] in self.host.addresses]

    def hear(self, datagram: bytes, source: Peer = NOWHERE, to: Peer = ALL, seconds: float = 0.01) -> list[Said]:
        """Send a datagram to the server.  -> what it sends within so many seconds."""
        self.said()
        self.send(datagram, source, to)
        self.network.advance(seconds)
        return self.said()

    def replay(self, id: str) -> list[Said]:
        """Send a recorded datagram, as it was sent.  -> the answers."""
        return self.hear(vector(id), sourceOf(id), targetOf(id))

    def request(self, datagram: bytes, port: int = 4011) -> list[Said]:
        """Send a request to port 4011.  -> the answers."""
        return self.hear(datagram, (MACHINE, port), BOOT)


def faults(folder: Path, *rules: dict[str, Any], **given: Any) -> tuple[str, ...]:
    """Return what C{castd check} says is wrong with these rules."""
    try:
        ProxyStage(folder, *rules, **given)
    except ConfigError as error:
        return error.faults
    return ()


def warnings(folder: Path, *rules: dict[str, Any], **given: Any) -> list[str]:
    """Return what C{castd check} warns of."""
    return list(ProxyStage(folder, *rules, **given).server.warnings())
