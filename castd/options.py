"""
Defines the models of the service file: the types of their fields, and the options that all transports share.

An author of a transport writes a subclass of L{ListenOptions}.  Its fields are camelCase in code, C{kebab-case} in the
service file (C{dataPort} is C{data-port}).  C{castd plugins}, the reference and the messages about a wrong file are
made from the types and from C{Field(description=...)}.  Models are immutable and compare by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import SerializerFunction

from castd import units
from castd.request import hostPort


def _schema(kind: str, *examples: object, types: str | list[str] = "string") -> WithJsonSchema:
    """Return the JSON schema of a field, from which C{castd plugins} and the reference are made."""
    return WithJsonSchema({"type": types, "format": kind, "examples": list(examples)})


def _written(write: SerializerFunction) -> PlainSerializer:
    """Return the serializer that writes a value as it would stand in a service file."""
    return PlainSerializer(write, when_used="json")


_AMOUNT = ["string", "number"]

#: The longest duration that a service file may name.  Seconds.
LONGEST = 366 * 86400.0


def _notEndless(seconds: float) -> float:
    if seconds > LONGEST:
        raise ValueError(f"{units.showDuration(seconds)} is more than a year, which was hardly meant")
    return seconds


#: Seconds: C{200 ms}, C{1 s}, C{2 min}; a plain number is seconds.
Duration = Annotated[
    float,
    AfterValidator(_notEndless),
    BeforeValidator(units.duration),
    _written(units.showDuration),
    _schema("duration", "200 ms", "1 s", "2 min", types=_AMOUNT),
]
#: Octets: C{100 MB}, C{64 KiB}; a plain number is octets.
Size = Annotated[
    int, BeforeValidator(units.size), _written(units.showSize), _schema("size", "64 KiB", "100 MB", types=_AMOUNT)
]
#: Octets a second: C{20 MB/s}, C{100 Mbit/s}; the unit must be named.
Rate = Annotated[float, BeforeValidator(units.rate), _written(units.showRate), _schema("rate", "20 MB/s", "100 Mbit/s")]
#: Times a second: C{50/s}, C{10/min}; the unit must be named.
Frequency = Annotated[
    float, BeforeValidator(units.frequency), _written(units.showFrequency), _schema("frequency", "50/s", "10/min")
]

#: Where Linux shows the first port that needs no privileges.
UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#: The number of a UDP port.
Port = Annotated[int, Field(ge=1, le=65535)]


def address(text: object) -> str:
    """
    Read the numeric address of an interface of this machine; C{any}, C{""} and C{0.0.0.0} are the IPv4 wildcard.

    @return: the address in its usual spelling; C{""} for the IPv4 wildcard.
    """
    if text in ("", "any"):
        return ""
    value = _ip(text, "10.0.0.5, fe80::1%eth0 or any")
    if value.is_multicast or value == ip_address("255.255.255.255"):
        raise ValueError(f"{text} is no address of an interface")
    if isinstance(value, IPv6Address) and value.is_link_local and value.scope_id is None:
        # Each interface may have this address (RFC 4007).
        raise ValueError(f"{text} needs the zone of its interface: write it as {text}%eth0")
    return "" if value == ip_address("0.0.0.0") else str(value)


def onlyIPv4(interface: str) -> str:
    """
    Check the address of an interface, as L{address} returns it, for a transport whose protocol has IPv4 only.

    @raise ValueError: it is one of IPv6.
    """
    if ":" in interface:
        raise ValueError(f"{interface} is an address of IPv6, which this protocol does not have")
    return interface


def group(text: object) -> str:
    """
    Read an IPv4 multicast address that data may go to.

    @raise ValueError: it is none, or lies in C{224.0.0.0/24}, which is reserved for routing protocols and floods every
        switch (RFC 5771).
    """
    value = _ip(text, "239.255.1.1")
    if not isinstance(value, IPv4Address) or not value.is_multicast:
        raise ValueError(f"{text} is not an IPv4 multicast address: they lie in 224.0.1.0 to 239.255.255.255")
    if value in _LINK_LOCAL:
        raise ValueError(f"{text} is reserved for routing protocols (224.0.0.0/24)")
    return str(value)


_LINK_LOCAL = IPv4Network("224.0.0.0/24")
_MULTICAST = IPv4Network("224.0.0.0/4")


def _ip(text: object, right: str) -> IPv4Address | IPv6Address:
    """@param right: examples of right values, for the error's text."""
    try:
        if isinstance(text, str) and not text.isprintable():
            raise ValueError("no zone has such a name")
        return ip_address(text if isinstance(text, str) else "")
    except ValueError:
        raise ValueError(f"{text} is not a numeric address: write it as {right}") from None


def network(text: object) -> IPv4Network | IPv6Network:
    """Read a network, C{10.0.0.0/8}, or a single address; bits set in the host part are an error."""
    if isinstance(text, IPv4Network | IPv6Network):
        return text
    try:
        found = ip_network(text if isinstance(text, str) else "", strict=False)
    except ValueError:
        raise ValueError(f"{text} is not a network: write it as 10.0.0.0/8 or 10.0.0.5") from None
    if str(text).partition("/")[0] and ip_address(str(text).partition("/")[0]) != found.network_address:
        raise ValueError(f"{text} has bits set behind its prefix: did you mean {found}?")
    return found


def groups(text: object) -> IPv4Network:
    """Read a network of IPv4 multicast addresses: C{239.255.32.0/24}."""
    found = network(text)
    if not isinstance(found, IPv4Network) or not found.subnet_of(_MULTICAST):
        raise ValueError(f"{text} is not a network of IPv4 multicast addresses, such as 239.255.32.0/24")
    if found.overlaps(_LINK_LOCAL):
        raise ValueError(f"{text} overlaps 224.0.0.0/24, which is reserved for routing protocols")
    return found


class WrongEntries(ValueError):
    """
    Says what is wrong with entries of a list or mapping that is read as a whole; each is a fault of its own.

    @ivar entries: (index or key, what is wrong) of each.
    """

    def __init__(self, entries: Iterable[tuple[int | str, str]]) -> None:
        self.entries = tuple(entries)
        super().__init__("; ".join(text for _, text in self.entries))


def clients(text: object) -> tuple[IPv4Network | IPv6Network, ...]:
    """
    Read the networks of some clients: C{any}, one network, or several.

    @raise ValueError: it is none; L{WrongEntries}: some of several are none.
    """
    if text == "any":
        return (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    if not isinstance(text, list | tuple):
        return (network(text),)
    if text == []:
        raise ValueError("an empty list is no client at all: name their networks, or any")
    found, wrong = [], list[tuple[int | str, str]]()
    for index, each in enumerate(text):
        try:
            found.append(network(each))
        except ValueError as error:
            wrong.append((index, str(error)))
    if wrong:
        raise WrongEntries(wrong)
    return tuple(found)


def portRange(text: object) -> range:
    """Read C{30000-30100}, both ends included, or a single port."""
    if isinstance(text, range) and text.step == 1 and text and text[0] >= 1 and text[-1] <= 65535:
        return text
    found = re.fullmatch(r"([0-9]{1,5})(?: ?- ?([0-9]{1,5}))?", str(text).strip(), re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text} is not a range of ports: write it as 30000-30100")
    return range(first, last + 1)


class HostPort(NamedTuple):
    """An address and a port, as sockets take them."""

    host: str
    port: int


def endpoint(text: object) -> HostPort:
    """Read a numeric address and a port: C{10.0.0.5:69}, C{[::1]:69}."""
    if isinstance(text, tuple) and len(text) == 2:
        text = hostPort((str(text[0]), text[1]))
    found = re.fullmatch(r"(?:\[([^\]]{1,60})\]|([0-9.]{1,15})):([0-9]{1,5})", str(text).strip(), re.ASCII)
    if found is None or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"{text} is not an address and a port: write it as 239.255.1.1:3001")
    return HostPort(str(_ip(found[1] or found[2], "239.255.1.1:3001")), int(found[3]))


def groupEndpoint(text: object) -> HostPort:
    """Read a group and a port: C{239.255.1.1:3001}."""
    found = endpoint(text)
    return HostPort(group(found.host), found.port)


def _showPorts(ports: range) -> str:
    return f"{ports[0]}-{ports[-1]}" if len(ports) > 1 else str(ports[0])


def _showClients(networks: tuple[IPv4Network | IPv6Network, ...]) -> str | list[str]:
    names = [str(each) for each in networks]
    return "any" if networks == clients("any") else names[0] if len(names) == 1 else names


#: A numeric address to bind to; C{""}: all of them (IPv4).
Address = Annotated[
    str, PlainValidator(address), _written(lambda host: host or "any"), _schema("address", "10.0.0.5", "any")
]
#: A multicast address that data may go to.
GroupAddress = Annotated[str, PlainValidator(group), _schema("multicast address", "239.255.1.1")]
AnyNetwork: TypeAlias = IPv4Network | IPv6Network
#: A network without host bits.
Network = Annotated[AnyNetwork, PlainValidator(network), _written(str), _schema("network", "10.0.0.0/8")]
#: A network of multicast addresses: a pool of groups.
GroupNetwork = Annotated[
    IPv4Network, PlainValidator(groups), _written(str), _schema("multicast network", "239.255.32.0/24")
]
#: Networks; C{any} stands for all addresses of both families.
Clients = Annotated[
    tuple[AnyNetwork, ...],
    PlainValidator(clients),
    _written(_showClients),
    _schema("networks", "any", "10.0.0.0/8", types=["string", "array"]),
]
#: Ports, both ends included in the text; a C{range} in code.
PortRange = Annotated[range, PlainValidator(portRange), _written(_showPorts), _schema("ports", "30000-30100")]
#: An address and a port.
Endpoint = Annotated[HostPort, PlainValidator(endpoint), _written(hostPort), _schema("address:port", "10.0.0.5:69")]
#: A multicast address and a port.
GroupEndpoint = Annotated[
    HostPort, PlainValidator(groupEndpoint), _written(hostPort), _schema("group:port", "239.255.1.1:3001")
]


#: C{PATH_MAX} of Linux, without the zero at its end.
_LONGEST_PATH = 4095


def resolve(text: object, info: ValidationInfo, written: Callable[[str], str] = str) -> Path:
    """
    Read a path; a relative one is relative to the folder of the service file, if there is one.

    @param written: how the folder is written, where some characters of a path have a meaning.
    """
    if not isinstance(text, str | Path) or not str(text):
        raise ValueError("a path is expected, such as /srv/boot")
    if len(str(text)) > _LONGEST_PATH:
        raise ValueError(f"a path of {len(str(text))} characters is longer than the system takes")
    folder = info.context.get("folder") if isinstance(info.context, dict) else None
    return Path(written(str(folder)), text) if isinstance(folder, Path) else Path(text)


#: A path, absolute once it was read from a service file.  It is not checked that a file exists there.
FilePath = Annotated[Path, PlainValidator(resolve), _written(str), _schema("path", "/srv/boot")]


def kebab(name: str) -> str:
    """Return the name of a field in the service file: C{data-port} for C{dataPort}."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"-{found[1]}", name).lower()


class Settings(BaseModel):
    """The base of all models of the service file: frozen, no unknown keys, kebab-case outside, camelCase inside."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=kebab,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return pydantic's schema, with defaults as they would be written in a service file: C{20 s}, not C{20.0}."""
        schema = handler(core)
        inside = handler.resolve_ref_schema(schema)
        defaults = cls.model_construct().model_dump(mode="json", by_alias=True)
        for key, each in inside.get("properties", {}).items():
            if key in defaults:
                each["default"] = defaults[key]
        return schema


class ServiceOptions(Settings):
    """
    The options of a service, which answers datagrams and sends no files.  They may be any L{Settings}, if what is said
    here does not hold.

    @cvar identifiesMachines: it hears the MAC, architecture and UUID of machines, and tells them to the site
        (C{site.machines.hear}): so profiles and access rules may name them.
    """

    identifiesMachines: ClassVar[bool] = False


class BootPath(NamedTuple):
    """
    How a machine that boots fetches one file from a transport, as DHCP has to tell it.

    @ivar url: what iPXE is told.
    @ivar plain: every firmware fetches it by its name alone, by TFTP from port 69.
    @ivar feature: the feature that iPXE must have, a value of L{castd.packets.pxe.IPXE_FEATURES}; 0: none.
    @ivar mtftp: group and port that MTFTP sends the file to, and the port that it is asked at; L{None}: it is no MTFTP.
    """

    url: str | None
    plain: bool = False
    feature: int = 0
    mtftp: tuple[HostPort, int] | None = None


class ListenOptions(Settings):
    """
    The options of every transport that listens at a port.

    @cvar fallback: the kind of transport that should come after this one at the same address, to serve what it
        declines; L{None}: none.
    @cvar takesAll: it takes every request that comes to its address, so that a transport behind it is never asked.
    @cvar elsewhere: the kind and port that its clients turn to when they give up here; L{None}: none.
    @cvar profiled: its requests are compared with the profiles of clients: they are RRQ and WRQ of TFTP, whose dialect
        sets C{Request.sentMode} and agrees on options by L{castd.packets.options.negotiate}.
    """

    fallback: ClassVar[str | None] = None
    takesAll: ClassVar[bool] = False
    elsewhere: ClassVar[tuple[str, int] | None] = None
    profiled: ClassVar[bool] = False

    port: Port = Field(description="UDP port that requests come to")
    interface: Address = Field(
        default="", description="address to bind to, and to send group data from; any: all IPv4 addresses"
    )
    ttl: int = Field(default=1, ge=1, le=255, description="hops that group data may go; 1 stays on the local network")
    rate: Rate | None = Field(default=None, description="most octets a second of each cast; null: no limit")

    @classmethod
    def clashes(cls, named: Sequence[tuple[str, Self]]) -> Iterable[tuple[str, str]]:
        """
        Find clashes among several transports of this kind, such as two files in one group.  The default finds none.

        @param named: (name in the service file, options) of each, in the order of the file.
        @return: (name, fault) of each clash; a fault may begin with a key of the options and a colon.
        """
        return ()

    def unfit(self, size: Callable[[str], int | None]) -> Iterable[str]:
        """
        Find faults of the files that these options name.  Called when the sources of content are open.

        @param size: -> octets of a file by its name; L{None}: the file does not exist (yet).
        @return: one line for each fault.
        """
        return ()

    def named(self) -> Iterable[tuple[str, str]]:
        """
        Return the files that these options name, each as (key of the options, name).  A reload calls this in a thread
        beside the reactor's.
        """
        return ()

    def beside(self, others: Sequence[tuple[str, ListenOptions]]) -> Iterable[str]:
        """
        Return warnings for C{castd check}, as L{warnings}, of what does not go with other transports at the address.

        @param others: (name in the service file, options) of those that are asked after this one.
        """
        return ()

    def destinations(self) -> Iterable[IPv4Network]:
        """
        Return the groups, and the networks that are broadcast to, for C{castd doctor}: where data goes that is for
        several clients at once.  The default has none.
        """
        return ()

    def groupClients(self) -> Iterable[AnyNetwork]:
        """
        Return the networks of the clients that group data is for, for C{castd doctor}, where these options name them:
        group data with a C{ttl} of 1 reaches none behind a router.  The default has none.
        """
        return ()

    def transferPorts(self) -> range | None:
        """
        Return the UDP ports here that transfers have, for C{castd doctor}: a firewall has to let in what comes to them.
        L{None}: any that is free.  The default is what C{ports} says, where these options have it; where a dialect has
        no ports of its own (C{IDialect.ownPort}), it is C{range(self.port, self.port + 1)}.
        """
        ports = getattr(self, "ports", None)
        return ports if isinstance(ports, range) else None

    def bootPath(self, name: str, host: str) -> BootPath:
        """
        Return how a machine that boots fetches a file from here.  The default is for a protocol that no boot loader
        speaks.

        @param name: the name of the file in the content.
        @param host: the address of this server that the machine is told.
        @raise ValueError: it cannot, with the reason.
        """
        raise ValueError("no boot loader can fetch from it")

    def warnings(self) -> Iterable[str]:
        """Return warnings for C{castd check}: settings that are allowed but are probably mistakes, or worth knowing."""
        return ()


class Limits(Settings):
    """The limits of the whole server.  A peer is an address here, whatever its port."""

    casts: int = Field(
        default=4096, ge=1, description="casts (transfers) at once; requests beyond are not answered, clients repeat"
    )
    receivers: int = Field(default=4096, ge=1, description="receivers at once, in all casts together")
    perPeer: int = Field(default=64, ge=1, description="transfers of one address at once")
    newPerPeer: Frequency = Field(default=50.0, description="new transfers of one address")
    rate: Rate | None = Field(default=None, description="most octets a second of all casts together; null: no limit")
    errorsPerPeer: Frequency = Field(default=20.0, description="ERROR datagrams to one address")
    errors: Frequency = Field(default=200.0, description="ERROR datagrams to all together")
    memory: Size = Field(
        default=32 << 20, ge=1 << 20, description="octets of wire images kept ready for all casts together"
    )
    drain: Duration = Field(default=20.0, description="how long a stop waits for transfers that are under way")
