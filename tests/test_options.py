"""The types of fields: what text becomes, and what is said of text that becomes nothing."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from castd import options
from castd.options import Limits, ListenOptions, Port, Settings

EVERYBODY = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

READ: list[tuple[Any, object, object]] = [
    (options.Port, "69", 69),
    (options.Port, "65535", 65535),
    (options.Duration, "200 ms", 0.2),
    (options.Size, "64 KiB", 65536),
    (options.Rate, "8 Mbit/s", 1e6),
    (options.Frequency, "50/s", 50.0),
    (options.Address, "10.0.0.5", "10.0.0.5"),
    (options.Address, "any", ""),
    (options.Address, "", ""),
    (options.Address, "0.0.0.0", ""),
    (options.Address, "::", "::"),
    (options.Address, "FE80::1%eth0", "fe80::1%eth0"),
    (options.GroupAddress, "239.255.1.1", "239.255.1.1"),
    (options.Network, "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
    (options.Network, "10.0.0.5", IPv4Network("10.0.0.5/32")),
    (options.Network, "2001:db8::/32", IPv6Network("2001:db8::/32")),
    (options.GroupNetwork, "239.255.32.0/24", IPv4Network("239.255.32.0/24")),
    (options.Clients, "any", EVERYBODY),
    (options.Clients, "10.0.0.0/8", (IPv4Network("10.0.0.0/8"),)),
    (options.Clients, ["10.0.0.0/8", "::1"], (IPv4Network("10.0.0.0/8"), IPv6Network("::1/128"))),
    (options.PortRange, "30000-30100", range(30000, 30101)),
    (options.PortRange, "30000", range(30000, 30001)),
    (options.PortRange, range(1, 3), range(1, 3)),
    (options.Endpoint, "10.0.0.5:69", ("10.0.0.5", 69)),
    (options.Endpoint, "[::1]:69", ("::1", 69)),
    (options.GroupEndpoint, "239.255.1.1:3001", ("239.255.1.1", 3001)),
    (options.FilePath, "/srv/boot", Path("/srv/boot")),
]

REFUSED: list[tuple[Any, object, str]] = [
    (options.Port, "0", "greater than or equal to 1"),
    (options.Port, "65536", "less than or equal to 65535"),
    (options.Port, "0x45", "valid integer"),
    (options.Address, "localhost", "localhost is not a numeric address"),
    (options.Address, "10.0.0.05", "not a numeric address"),
    (options.Address, "fe80::1", "fe80::1 needs the zone of its interface: write it as fe80::1%eth0"),
    (options.Address, "239.1.1.1", "no address of an interface"),
    (options.Address, "255.255.255.255", "no address of an interface"),
    (options.Address, None, "not a numeric address"),
    (options.GroupAddress, "10.0.0.5", "not an IPv4 multicast address"),
    (options.GroupAddress, "224.0.0.1", "reserved for routing protocols"),
    (options.GroupAddress, "ff02::1", "not an IPv4 multicast address"),
    (options.Network, "10.0.0.5/8", "did you mean 10.0.0.0/8?"),
    (options.Network, "10.0.0.0/33", "not a network"),
    (options.Network, "any", "not a network"),
    (options.GroupNetwork, "10.0.0.0/8", "not a network of IPv4 multicast addresses"),
    (options.GroupNetwork, "224.0.0.0/4", "overlaps 224.0.0.0/24"),
    (options.Clients, ["10.0.0.0/8", "nobody"], "nobody is not a network"),
    (options.PortRange, "30100-30000", "not a range of ports"),
    (options.PortRange, "0-5", "not a range of ports"),
    (options.PortRange, "1-65536", "not a range of ports"),
    (options.PortRange, range(0), "not a range of ports"),
    (options.Endpoint, "239.255.1.1", "not an address and a port"),
    (options.Endpoint, "host:69", "not an address and a port"),
    (options.Endpoint, "10.0.0.5:0", "not an address and a port"),
    (options.GroupEndpoint, "10.0.0.5:69", "not an IPv4 multicast address"),
    (options.FilePath, "", "a path is expected"),
]


@pytest.mark.parametrize(("kind", "text", "value"), READ)
def test_read(kind: Any, text: object, value: object) -> None:
    """Text becomes the one value its type has for it."""
    assert TypeAdapter(kind).validate_python(text) == value


@pytest.mark.parametrize(("kind", "text", "complaint"), REFUSED)
def test_refused(kind: Any, text: object, complaint: str) -> None:
    """Text that is no value of its type is refused with a sentence."""
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(text)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, _, value in READ if kind is not options.FilePath])
def test_bothWays(kind: Any, value: object) -> None:
    """What is written of a value, in the reference and the schema, is read as that value."""
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(adapter.dump_python(value, mode="json")) == value


READERS = [
    options.address,
    options.group,
    options.network,
    options.groups,
    options.clients,
    options.portRange,
    options.endpoint,
    options.groupEndpoint,
]


@given(
    read=st.sampled_from(READERS),
    text=st.one_of(st.text(), st.none(), st.from_regex(r"[0-9a-f.:/\[\]%-]{1,40}"), st.lists(st.text(), max_size=2)),
)
def test_anyText(read: Any, text: object) -> None:
    """Any value at all is read or refused by ValueError; no reader fails in another way."""
    try:
        read(text)
    except ValueError:
        return


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_portRanges(one: int, other: int) -> None:
    """A range of ports holds both its ends and nothing outside."""
    first, last = sorted((one, other))
    found = options.portRange(f"{first}-{last}")
    assert (found[0], found[-1], len(found)) == (first, last, last - first + 1)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("port", "port"),
        ("dataPort", "data-port"),
        ("newPerPeer", "new-per-peer"),
        ("ignoreCase", "ignore-case"),
        ("v4Only", "v4-only"),
    ],
)
def test_kebab(name: str, written: str) -> None:
    """A camelCase field is kebab-case in the service file."""
    assert options.kebab(name) == written


class Mine(ListenOptions):
    """An author's options."""

    port: Port = 7777
    dataPort: Port | None = None


def test_author() -> None:
    """A subclass adds fields and defaults, and that is all it takes."""
    assert Mine.model_validate({"data-port": "247"}, by_name=False) == Mine(port=7777, dataPort=247)


def test_frozen() -> None:
    """Options cannot be changed, and are equal when they say the same."""
    one, other = Mine(ttl=3), Mine.model_validate({"ttl": "3"})
    assert (one, hash(one)) == (other, hash(other))
    with pytest.raises(ValidationError):
        one.ttl = 4  # type: ignore[misc]


def test_unknown() -> None:
    """A key that nobody knows is refused."""
    with pytest.raises(ValidationError, match="prot"):
        Mine.model_validate({"prot": "1"})


def test_notANumber() -> None:
    """A float is finite, also in the models of authors."""

    class Redundant(Settings):
        share: float

    with pytest.raises(ValidationError):
        Redundant.model_validate({"share": "nan"})


def test_limits() -> None:
    """The limits are what the operator's pages promise."""
    assert Limits().model_dump(mode="json") == {
        "casts": 4096,
        "receivers": 4096,
        "per-peer": 64,
        "new-per-peer": "50/s",
        "rate": None,
        "errors-per-peer": "20/s",
        "errors": "200/s",
        "memory": "32 MiB",
        "drain": "20 s",
    }


@pytest.mark.parametrize("model", [ListenOptions, Limits])
def test_described(model: type[BaseModel]) -> None:
    """Every field has a sentence for the operator."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_relative(tmp_path: Path) -> None:
    """A relative path is beneath the folder of the service file, where it was read from one."""
    adapter = TypeAdapter[Path](options.FilePath)
    assert adapter.validate_python("boot", context={"folder": tmp_path}) == tmp_path / "boot"
    assert adapter.validate_python("/srv", context={"folder": tmp_path}) == Path("/srv")
    assert adapter.validate_python("boot") == Path("boot")
